"""An address of Valkey is taken or refused with the remedy, and its password is never shown."""

from __future__ import annotations

import pytest

from serve_app.answers_url import normal_answers_url, shown_url
from serve_app.errors import ConfigError
from serve_app.settings import AppSettings

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


def test_the_variable_wins_over_the_setting_and_neither_is_shown_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkey")
    app = AppSettings.load({"answers_url": f"redis://:{SECRET}@cache/1"})
    assert (app.absolute().answers_url, SECRET in repr(app)) == (f"redis://:{SECRET}@cache/1", False)
    monkeypatch.setenv("FRUGAL_ANSWERS_URL", f"valkey://:{SECRET}@other/2")
    assert app.absolute().answers_url == f"valkey://:{SECRET}@other/2"
    monkeypatch.setenv("FRUGAL_ANSWERS_URL", f"memcached://{SECRET}")
    with pytest.raises(ConfigError, match="FRUGAL_ANSWERS_URL: must be valkey://") as caught:
        app.absolute()
    assert SECRET not in caught.value.message


def test_a_wrong_address_in_the_configuration_names_its_place_and_not_its_password() -> None:
    with pytest.raises(ConfigError, match=r"^args\.answers_url: ") as caught:
        AppSettings.load({"answers_url": f"memcached://{SECRET}"}, "args")
    assert SECRET not in caught.value.message
