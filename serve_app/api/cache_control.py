"""What a request says about stored answers: the header Cache-Control, the body's `cache`, and both together. No I/O.

The directives are RFC 9111's, section 5.2.1. One that we do not know is ignored, as section 5.2.3 asks.
Tests: tests/fast/test_api_cache_control.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from serve_app.api.fields import Body, shown
from serve_app.errors import BadRequest
from serve_app.messages import CachePolicy

MAX_AGE_LIMIT_S = 2**31  # RFC 9111, section 1.2.2: a larger number means this
DIRECTIVE = re.compile(r'\s*([!#$%&\'*+\-.^_`|~\w]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?\s*')


def _any_age(value: Any) -> Any:
    return MAX_AGE_LIMIT_S if value is True else value


AnyAge = Annotated[int, Field(ge=0, le=MAX_AGE_LIMIT_S)]
MaxStale = Annotated[AnyAge, BeforeValidator(_any_age, json_schema_input_type=int | Literal[True])]


class CacheField(Body):
    """The body's `cache`, for clients that cannot set headers per request."""

    no_cache: bool = Field(False, alias="no-cache", description="true: use no stored or live answer, do store the new one")
    no_store: bool = Field(False, alias="no-store", description="true: do not store the answer")
    max_age: AnyAge | None = Field(None, alias="max-age", description="seconds: accept only answers that are at most so old")
    max_stale: MaxStale | None = Field(
        None, alias="max-stale", description="seconds: accept an answer so long beyond its time to live; true: as long as it is kept"
    )
    min_fresh: AnyAge | None = Field(None, alias="min-fresh", description="seconds: accept only what will be fresh for so long")
    only_if_cached: bool = Field(
        False, alias="only-if-cached", description="true: a stored answer, or else a 504 (`not_cached`); never a generation"
    )
    ttl: float | None = Field(
        None, gt=0, description="seconds: what is stored of this request lives so long and no longer; at most ttl_s of AnswerCache"
    )
    sampled: Literal["always"] | None = Field(None, description="always: reuse and store although the answer is drawn without a seed")
    similar: bool = Field(True, description="false: not the answer to a question that only means the same")

    def policy(self) -> CachePolicy:
        """The same in our words."""
        return CachePolicy(
            no_cache=self.no_cache,
            no_store=self.no_store,
            max_age_s=_seconds(self.max_age),
            sampled_always=self.sampled == "always",
            similar=self.similar,
            max_stale_s=_seconds(self.max_stale),
            min_fresh_s=_seconds(self.min_fresh),
            only_if_cached=self.only_if_cached,
            ttl_s=self.ttl,
        )


def parse(header: str) -> CachePolicy:
    """The policy of a Cache-Control header; several headers are joined by commas before. Of a directive that is said twice, the stricter
    holds.

    Raises:
        BadRequest: where a directive's value is no whole number of seconds.
    """
    policy = CachePolicy()
    for name, value in _directives(header):
        match name:
            case "no-cache":
                said = CachePolicy(no_cache=True)
            case "no-store":
                said = CachePolicy(no_store=True)
            case "only-if-cached":
                said = CachePolicy(only_if_cached=True)
            case "max-age":
                said = CachePolicy(max_age_s=_number(name, value))
            case "max-stale":
                said = CachePolicy(max_stale_s=MAX_AGE_LIMIT_S if value is None else _number(name, value))
            case "min-fresh":
                said = CachePolicy(min_fresh_s=_number(name, value))
            case _:
                continue
        policy = combine(policy, said)
    return policy


def combine(a: CachePolicy, b: CachePolicy) -> CachePolicy:
    """Both at once: what either forbids is forbidden."""
    return CachePolicy(
        no_cache=a.no_cache or b.no_cache,
        no_store=a.no_store or b.no_store,
        max_age_s=_said(min, a.max_age_s, b.max_age_s),
        sampled_always=a.sampled_always or b.sampled_always,
        similar=a.similar and b.similar,
        max_stale_s=_said(min, a.max_stale_s, b.max_stale_s),
        min_fresh_s=_said(max, a.min_fresh_s, b.min_fresh_s),
        only_if_cached=a.only_if_cached or b.only_if_cached,
        ttl_s=_said(min, a.ttl_s, b.ttl_s),
    )


def _said(stricter: Callable[[list[float]], float], *values: float | None) -> float | None:
    given = [value for value in values if value is not None]
    return stricter(given) if given else None


def _seconds(value: int | None) -> float | None:
    return None if value is None else float(value)


def _number(name: str, value: str | None) -> float:
    if value is None or not re.fullmatch("[0-9]+", value):
        told = name if value is None else f"{name}={shown(value)}"
        raise BadRequest(f"Cache-Control: {told} is no whole number of seconds; send {name}=60, or leave it out", param="Cache-Control")
    return min(float(value), MAX_AGE_LIMIT_S)


def _directives(header: str) -> list[tuple[str, str | None]]:
    """Names and values; None where there is no value."""
    found: list[tuple[str, str | None]] = []
    position = 0
    while position < len(header):
        match = DIRECTIVE.match(header, position)
        if match:
            value = match[2]
            found.append((match[1].lower(), value[1:-1] if value is not None and value.startswith('"') else value))
        comma = header.find(",", match.end() if match else position)
        position = len(header) if comma < 0 else comma + 1
    return found
