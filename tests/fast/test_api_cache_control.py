"""Cache-Control as RFC 9111 writes it, alone and together with the body's field."""

from __future__ import annotations

import pytest

from serve_app.api.cache_control import CacheField, combine, parse
from serve_app.errors import BadRequest
from serve_app.messages import CachePolicy


@pytest.mark.parametrize(
    ("header", "policy"),
    [
        ("", CachePolicy()),
        ("no-cache", CachePolicy(no_cache=True)),
        ("No-Store", CachePolicy(no_store=True)),
        (" no-cache ,no-store,", CachePolicy(no_cache=True, no_store=True)),
        ("max-age=60", CachePolicy(max_age_s=60)),
        ("max-age=0", CachePolicy(max_age_s=0)),
        ('max-age="60"', CachePolicy(max_age_s=60)),
        ("max-age=60, max-age=30", CachePolicy(max_age_s=30)),
        ("max-age=" + "9" * 5000, CachePolicy(max_age_s=2**31)),
        ("max-stale=60, max-stale", CachePolicy(max_stale_s=60)),
        ("max-stale", CachePolicy(max_stale_s=2**31)),
        ("max-stale=0", CachePolicy(max_stale_s=0)),
        ("min-fresh=5, min-fresh=60", CachePolicy(min_fresh_s=60)),
        ("Only-If-Cached", CachePolicy(only_if_cached=True)),
        ("no-transform, x=1, stale-if-error=5, ttl=3", CachePolicy()),
        ('x="no-cache, no-store", no-cache', CachePolicy(no_cache=True)),
        ('x="a \\" no-store"', CachePolicy()),
        (",,;;==, no-store", CachePolicy(no_store=True)),
    ],
)
def test_a_header_is_read(header: str, policy: CachePolicy) -> None:
    assert parse(header) == policy


@pytest.mark.parametrize("header", ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=soon", "no-cache, max-age=\u0661"])
def test_a_malformed_max_age_is_refused_with_the_remedy(header: str) -> None:
    with pytest.raises(BadRequest, match="send max-age=60") as caught:
        parse(header)
    assert caught.value.param == "Cache-Control"


@pytest.mark.parametrize(
    ("header", "remedy"), [("max-stale=", "max-stale=60"), ("max-stale=x", "max-stale=60"), ("min-fresh", "min-fresh=60")]
)
def test_so_are_the_other_directives_with_seconds(header: str, remedy: str) -> None:
    with pytest.raises(BadRequest, match=f"send {remedy}") as caught:
        parse(header)
    assert caught.value.param == "Cache-Control"


def test_the_stricter_of_two_policies_wins() -> None:
    body = CacheField.model_validate({"no-store": True, "max-age": 90}).policy()
    assert combine(parse("no-cache, max-age=60"), body) == CachePolicy(no_cache=True, no_store=True, max_age_s=60)
    assert combine(CachePolicy(), body) == combine(body, CachePolicy()) == body
    more = CacheField.model_validate({"max-stale": True, "min-fresh": 5, "only-if-cached": True, "ttl": 2.5}).policy()
    assert combine(parse("max-stale=7, min-fresh=3"), more) == CachePolicy(max_stale_s=7, min_fresh_s=5, only_if_cached=True, ttl_s=2.5)
    exact = CacheField.model_validate({"similar": False}).policy()
    assert combine(CachePolicy(), exact) == exact == CachePolicy(similar=False)
