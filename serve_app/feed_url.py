"""The address of a feed: what it may be, and how it may be shown. Tests: tests/fast/test_settings.py."""

from __future__ import annotations

import re
import urllib.parse

SAMPLE_FEED = "sample:"  # bundled
MAX_FEED_URL = 2_000  # bytes: an index of PostgreSQL holds at most 2,704 per row


def masked(url: str, mark: str = "***@") -> str:
    """A feed's address as it may be shown: with `mark` in place of the user and password that it may carry."""
    try:
        urllib.parse.urlsplit(url).port  # noqa: B018 (raises where it is none)
        userinfo = r"^([^:/?#]*:/*)[^/?#]*@"
    except ValueError:  # a password with a slash in it, perhaps; nothing tells where it ends, so all before the last @ goes
        userinfo = r"(?s)^([^:/?#]*:/*).*@"
    return re.sub(userinfo, lambda found: found[1] + mark, url)


def check_feed_url(url: str) -> None:
    """Raise ValueError, with the remedy, for an address that no feed can have."""
    scheme = url.split(":", 1)[0].lower() if ":" in url else ""
    if url == SAMPLE_FEED:
        return
    if len(url.encode("utf-8", "replace")) > MAX_FEED_URL:
        raise ValueError(f"feed address {masked(url)[:200]!r}... has more than {MAX_FEED_URL} bytes; use a shorter one")
    if re.search(r"[\x00\ud800-\udfff]", url):  # no address holds one and no database keeps one
        raise ValueError(f"feed address {masked(url)[:200]!r} holds a character that is none; write https://host/path")
    if scheme not in ("http", "https"):
        raise ValueError(f"feed address {masked(url)[:200]!r}: unknown scheme {scheme!r}; use http://, https:// or {SAMPLE_FEED!r}")
    if not _host(url):
        raise ValueError(f"feed address {masked(url)[:200]!r} names no host; write https://host/path")


def _host(url: str) -> str | None:
    try:
        return urllib.parse.urlsplit(url).hostname
    except ValueError:  # such as a bracket that is never closed
        return None
