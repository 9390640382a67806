"""What a webhook is told, and who hears of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.events import Event, article_event, feed_event, is_wanted
from serve_app.settings_webhooks import Webhook
from tests.fast.fakes_api import article, feed, summary

SECRET = "whsec_" + "A" * 32


def hook(**values: Any) -> Webhook:
    return Webhook(**{"url": "https://me.test/", "secret": SECRET, "events": ("article.done", "feed.gone", "digest.daily"), **values})


def test_the_body_has_the_three_members_of_standard_webhooks() -> None:
    event = article_event(article("a0", title='Fish & "chips" 🐟'), feed(), 1_700_000_000.5)
    told = json.loads(event.body)
    assert list(told) == ["type", "timestamp", "data"]
    assert (told["type"], told["timestamp"]) == ("article.done", "2023-11-14T22:13:20.500000Z")
    assert (told["data"]["title"], told["data"]["summary"]["text"]) == ('Fish & "chips" 🐟', summary().text)
    assert not {"text", "text_hash"} & set(told["data"])
    assert not {"text_hash", "prompt_template"} & set(told["data"]["summary"])


def test_an_article_that_failed_tells_why_and_has_no_summary() -> None:
    event = article_event(article("a0", state="failed", reason="looping", summary=None), feed(), 1.0)
    assert (event.type, event.data["reason"], event.data["summary"]) == ("article.failed", "looping", None)


@pytest.mark.parametrize(("state", "type"), [("failing", "feed.failing"), ("gone", "feed.gone")])
def test_a_feed_tells_its_state_and_no_password(state: Any, type: str) -> None:
    event = feed_event(feed(state=state, url="https://ann:pw@example.org/feed", last_error="no such name"), 1.0)
    assert (event.type, event.data["last_error"], event.data["url"]) == (type, "no such name", "https://***@example.org/feed")
    assert "pw" not in event.body


@pytest.mark.parametrize(
    ("wanted", "event", "expected"),
    [
        (hook(), Event("article.done", 1.0, {}, ("id", "url")), True),
        (hook(), Event("article.failed", 1.0, {}, ("id", "url")), False),
        (hook(feeds=("url",)), Event("article.done", 1.0, {}, ("id", "url")), True),
        (hook(feeds=("id",)), Event("feed.gone", 1.0, {}, ("id", "url")), True),
        (hook(feeds=("other",)), Event("article.done", 1.0, {}, ("id", "url")), False),
        (hook(feeds=("other",)), Event("digest.daily", 1.0, {}, (), ("ai",)), True),
        (hook(tags=("ai",)), Event("article.done", 1.0, {}, ("id",), ("ai", "law")), True),
        (hook(tags=("ai",)), Event("article.done", 1.0, {}, ("id",), ("law",)), False),
        (hook(tags=("ai",)), Event("digest.daily", 1.0, {}, (), ("law",)), False),
        (hook(tags=("ai",)), Event("article.done", 1.0, {}, ("id",), ("AI",)), True),
        (hook(tags=("ai",)), Event("feed.gone", 1.0, {}, ("id",)), True),
        (hook(tags=("ai",), events=("article.failed",)), Event("article.failed", 1.0, {}, ("id",)), True),
    ],
)
def test_each_receiver_hears_what_its_filters_let_through(wanted: Webhook, event: Event, expected: bool) -> None:
    assert is_wanted(wanted, event) is expected
