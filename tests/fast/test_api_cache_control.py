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
        ("no-transform, only-if-cached, x=1, max-stale", CachePolicy()),
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


def test_the_stricter_of_two_policies_wins() -> None:
    body = CacheField.model_validate({"no-store": True, "max-age": 90}).policy()
    assert combine(parse("no-cache, max-age=60"), body) == CachePolicy(no_cache=True, no_store=True, max_age_s=60)
    assert combine(CachePolicy(), body) == combine(body, CachePolicy()) == body
    exact = CacheField.model_validate({"similar": False}).policy()
    assert combine(CachePolicy(), exact) == exact == CachePolicy(similar=False)
