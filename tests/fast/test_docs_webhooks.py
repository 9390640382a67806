"""docs/webhooks.md is kept to the code: its events, its delays, and its way to verify."""

from __future__ import annotations

import pathlib
import re
import time
from typing import Any

from serve_app.feeds.webhooks import DELAYS_S, signed_headers
from serve_app.settings_webhooks import EVENTS, signing_keys
from serve_app.store.webhooks import TEST

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
SECRET = "whsec_" + "A" * 32
OTHER = "whsec_" + "C" * 32


def test_every_event_is_there() -> None:
    assert re.findall(r"^\| `([a-z.]+)` \|", PAGE, re.MULTILINE) == [*EVENTS, TEST]


def test_the_delays_are_those_of_the_code() -> None:
    units = {"s": 1, "min": 60, "h": 3600}
    (told,) = re.findall(r"Tries follow after ([^;]+?), each", PAGE)
    assert tuple(float(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", told)) == DELAYS_S


def test_the_way_to_verify_takes_our_messages_and_no_others() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    headers = signed_headers(signing_keys(SECRET), "msg_1", time.time(), b"{}")
    assert names["is_ours"](SECRET, headers, b"{}")
    assert not names["is_ours"](SECRET, headers, b"{ }")
    assert not names["is_ours"]("whsec_" + "B" * 32, headers, b"{}")
    assert not names["is_ours"](SECRET, signed_headers(signing_keys(SECRET), "msg_1", time.time() - 400, b"{}"), b"{}")
    for secret in (SECRET, OTHER):  # while it changes, who knows either takes the message
        assert names["is_ours"](secret, signed_headers(signing_keys(f"{OTHER} {SECRET}"), "msg_1", time.time(), b"{}"), b"{}")
