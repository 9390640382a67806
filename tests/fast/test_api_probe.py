"""A trial check over HTTP."""

from __future__ import annotations

from serve_app.errors import Overloaded
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_http import client_of


async def test_a_trial_check_says_its_steps() -> None:
    services = FakeServices()
    reply = await client_of(services).post("/v1/feeds/check", json={"url": "https://example.org/feed"})
    step = {"name": "address", "ok": True, "text": "https://example.org/feed: not on the list", "details": {"feed_id": None}}
    expected = {"url": "https://example.org/feed", "ok": True, "steps": [step], "feeds": ["https://example.org/feed"]}
    assert (reply.status_code, reply.json()) == (200, expected)
    assert services.all_feeds == {}


async def test_too_many_trial_checks_are_told_to_wait() -> None:
    services = FakeServices()
    services.break_part("check_feed", Overloaded("4 addresses are being tried", retry_after_s=5.0))
    reply = await client_of(services).post("/v1/feeds/check", json={"url": "https://example.org/feed"})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
