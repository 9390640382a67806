"""An address of Valkey is taken or refused with the remedy, and its password is never shown."""

from __future__ import annotations

import pytest

from serve_app.answers_url import normal_answers_url, shown_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("valkey://cache", "valkey://cache"),
        ("redis://127.0.0.1:6379/2", "redis://127.0.0.1:6379/2"),
        (f"rediss://ann:{SECRET}@cache.example:6380/0", "rediss://ann@cache.example:6380/0"),
        (f"valkeys://:{SECRET}@[::1]:6380/0?ssl_ca_certs=/etc/ca.pem", "valkeys://[::1]:6380/0"),
    ],
)
def test_an_address_is_taken_and_shown_without_its_password(url: str, shown: str) -> None:
    pytest.importorskip("valkey")
    assert (normal_answers_url(url), shown_url(url)) == (url, shown)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("cache:6379", "must be valkey://"),
        (f"postgresql://ann:{SECRET}@db/answers", "not postgresql://...; remove it to keep the answers in the database"),
        (f"unix://{SECRET}", "not unix://..."),
        (f"valkey://ann:{SECRET}@/0", "is not an address"),
        (f"valkey://ann:{SECRET}@cache:port/0", "is not an address"),
        (f"valkey://{SECRET}[", "is not an address"),
        ("valkey://cache/answers", "must end in the number of a database"),
        ("valkey://cache/0?ssl_cert_reqs=none", "takes no options but"),
    ],
)
def test_what_is_none_is_refused_with_the_remedy_and_without_the_password(url: str, problem: str) -> None:
    pytest.importorskip("valkey")
    with pytest.raises(ValueError, match=r".") as caught:
        normal_answers_url(url)
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)
