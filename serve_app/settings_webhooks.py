"""`Feeds.user_config.webhooks`: who is told of what. Tests: tests/fast/test_settings_webhooks.py."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import urllib.parse
from typing import Literal, get_args

from pydantic import Field, model_validator

from serve_app.feed_url import masked
from serve_app.settings_base import Settings

EventName = Literal["article.done", "article.failed", "feed.failing", "feed.gone", "digest.daily"]
EVENTS: tuple[EventName, ...] = get_args(EventName)
PREFIX = "whsec_"
MAX_SECRETS = 3
MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64  # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
HOW = "make one with `python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\"`"


def signing_keys(secrets: str) -> tuple[bytes, ...]:
    """The bytes that secrets `whsec_<base64>` stand for: one, or more with spaces between while receivers change over to a new one.

    Raises:
        ValueError: they are none, or too many; the message never holds them.
    """
    found = secrets.split()
    if len(found) > MAX_SECRETS:
        raise ValueError(f"holds {len(found)} secrets; {MAX_SECRETS} at most, and one once every receiver knows it")
    return tuple(_signing_key(secret) for secret in found or [""])


def _signing_key(secret: str) -> bytes:
    if not secret.startswith(PREFIX):
        raise ValueError(f"does not begin with {PREFIX}; {HOW}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"is no base64 behind {PREFIX}; {HOW}") from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"holds {len(key)} bytes and must hold {MIN_KEY_BYTES} to {MAX_KEY_BYTES}; {HOW}")
    return key


class Webhook(Settings):
    """One receiver. Without `feeds` it hears of all feeds, without `tags` of all articles."""

    url: str = Field(min_length=1, max_length=2_000)
    secret: str | None = Field(None, repr=False, description="whsec_<base64>, what its messages are signed with; while it changes: new old")
    secret_env: str | None = Field(
        None, pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="a variable of the server's environment that holds the secret instead"
    )
    events: tuple[EventName, ...] = Field(("article.done",), min_length=1)
    feeds: tuple[str, ...] = Field((), description="only events of these feeds, by id or address")
    tags: tuple[str, ...] = Field((), description="only articles and daily digests with one of these tags")

    @model_validator(mode="after")
    def _consistent(self) -> Webhook:
        if not re.fullmatch(r"https?://[^/?#\s@]+([/?][^#\s]*)?", self.url) or not _is_address(self.url):
            raise ValueError(f"url {masked(self.url)[:200]!r} is no address that can be posted to; write https://host[:port][/path]")
        if (self.secret is None) == (self.secret_env is None):
            raise ValueError("give either secret or secret_env, so that the receiver can tell our messages from others")
        if self.secret is not None:
            try:
                signing_keys(self.secret)
            except ValueError as error:
                raise ValueError(f"secret {error}") from None
        return self

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of its address."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    @property
    def shown(self) -> str:
        """Its address without what may be a secret: many receivers know their callers by a token in the path."""
        origin = re.match(r"https?://[^/?#]+", self.url)
        assert origin is not None
        return origin[0] if origin[0] == self.url.rstrip("/") else f"{origin[0]}/..."

    @property
    def fingerprint(self) -> str:
        """Another one after any change of its settings."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that is never closed
        return False
