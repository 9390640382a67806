"""What a request says about stored answers: the header Cache-Control, the body's `cache`, and both together. No I/O.

The directives are RFC 9111's, section 5.2.1. One that we do not know is ignored, as section 5.2.3 asks.
Tests: tests/fast/test_api_cache_control.py.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from serve_app.api.fields import Body, shown
from serve_app.errors import BadRequest
from serve_app.messages import CachePolicy

MAX_AGE_LIMIT_S = 2**31  # RFC 9111, section 1.2.2: a larger number means this
DIRECTIVE = re.compile(r'\s*([!#$%&\'*+\-.^_`|~\w]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?\s*')


class CacheField(Body):
    """The body's `cache`, for clients that cannot set headers per request."""

    no_cache: bool = Field(False, alias="no-cache", description="true: use no stored or live answer, do store the new one")
    no_store: bool = Field(False, alias="no-store", description="true: do not store the answer")
    max_age: int | None = Field(None, alias="max-age", ge=0, le=MAX_AGE_LIMIT_S, description="seconds: accept only younger answers")
    sampled: Literal["always"] | None = Field(None, description="always: reuse and store although the answer is drawn without a seed")
    similar: bool = Field(True, description="false: not the answer to a question that only means the same")

    def policy(self) -> CachePolicy:
        """The same in our words."""
        max_age_s = None if self.max_age is None else float(self.max_age)
        return CachePolicy(self.no_cache, self.no_store, max_age_s, self.sampled == "always", self.similar)


def parse(header: str) -> CachePolicy:
    """The policy of a Cache-Control header; several headers are joined by commas before.

    Raises:
        BadRequest: where max-age is no whole number of seconds.
    """
    no_cache = no_store = False
    ages = []
    for name, value in _directives(header):
        if name == "no-cache":
            no_cache = True
        elif name == "no-store":
            no_store = True
        elif name == "max-age":
            if not re.fullmatch("[0-9]+", value):
                said = f"Cache-Control: max-age={shown(value)} is no whole number of seconds; send max-age=60, or leave it out"
                raise BadRequest(said, param="Cache-Control")
            ages.append(min(float(value), MAX_AGE_LIMIT_S))
    return CachePolicy(no_cache, no_store, min(ages, default=None))


def combine(a: CachePolicy, b: CachePolicy) -> CachePolicy:
    """Both at once: what either forbids is forbidden."""
    ages = [policy.max_age_s for policy in (a, b) if policy.max_age_s is not None]
    return CachePolicy(
        a.no_cache or b.no_cache,
        a.no_store or b.no_store,
        min(ages, default=None),
        a.sampled_always or b.sampled_always,
        a.similar and b.similar,
    )


def _directives(header: str) -> list[tuple[str, str]]:
    found, position = [], 0
    while position < len(header):
        match = DIRECTIVE.match(header, position)
        if match:
            value = match[2] or ""
            found.append((match[1].lower(), value[1:-1] if value.startswith('"') else value))
        comma = header.find(",", match.end() if match else position)
        position = len(header) if comma < 0 else comma + 1
    return found
