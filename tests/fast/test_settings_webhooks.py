"""Who is told of what: wrong settings are named with their remedy, and no secret is shown."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from serve_app.errors import ConfigError
from serve_app.settings_feeds import FeedsSettings
from serve_app.settings_webhooks import Webhook, signing_keys

SECRET, OTHER = ["whsec_" + base64.b64encode(key * 32).decode() for key in (b"k", b"o")]


def load(**values: Any) -> Webhook:
    return FeedsSettings.load({"webhooks": [{"url": "https://me.test/in", "secret": SECRET, **values}]}).webhooks[0]


def test_the_key_is_what_stands_behind_the_prefix_and_a_second_one_behind_a_space() -> None:
    assert signing_keys(SECRET) == (b"k" * 32,)
    assert signing_keys(f"{OTHER} {SECRET}") == (b"o" * 32, b"k" * 32)
    assert load(secret=f" {OTHER}\n{SECRET} ").secret is not None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"secret": "s3cr3t-of-mine"}, "secret does not begin with whsec_; make one with"),
        ({"secret": "whsec_s3cr3t!"}, "secret is no base64 behind whsec_"),
        ({"secret": "whsec_czNjcjN0"}, "secret holds 6 bytes and must hold 24 to 64"),
        ({"secret": ""}, "secret does not begin with whsec_"),
        ({"secret": f"{SECRET} s3cr3t"}, "secret does not begin with whsec_"),
        ({"secret": " ".join([SECRET] * 4)}, "secret holds 4 secrets; 3 at most"),
        ({"secret": None}, "give either secret or secret_env"),
        ({"secret_env": "NAME"}, "give either secret or secret_env"),
        ({"secret": None, "secret_env": "1 NAME"}, "secret_env"),
        ({"url": "me.test"}, "write https://host"),
        ({"url": "ftp://me.test"}, "write https://host"),
        ({"url": "https://ann:pw@me.test/"}, "write https://host"),
        ({"url": "https://me.test:99999/"}, "write https://host"),
        ({"url": "https://[::1/"}, "write https://host"),
        ({"url": "sample:"}, "write https://host"),
        ({"events": []}, "events"),
        ({"events": ["article.read"]}, "events"),
        ({"event": ["article.done"]}, "did you mean events?"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**values)
    assert words in caught.value.message
    assert "s3cr3t" not in caught.value.message
    assert "ann:pw" not in caught.value.message


def test_one_address_is_one_webhook() -> None:
    one = {"url": "https://me.test/in/token", "secret": SECRET}
    with pytest.raises(ConfigError, match=r"webhooks lists https://me\.test/\.\.\. twice"):
        FeedsSettings.load({"webhooks": [one, {**one, "events": ["feed.gone"]}]})


def test_what_is_shown_holds_neither_secret_nor_path() -> None:
    one = load(url="https://hooks.test:8443/services/T0/token?key=x")
    assert one.shown == "https://hooks.test:8443/..."
    assert load(url="https://hooks.test/").shown == "https://hooks.test"
    assert SECRET not in repr(one)


def test_any_change_is_seen_and_the_id_stays() -> None:
    first, other = load(), load(events=["feed.gone"])
    assert first.id == other.id
    assert len({first.fingerprint, other.fingerprint, load(tags=["x"]).fingerprint, load(secret=None, secret_env="E").fingerprint}) == 4
