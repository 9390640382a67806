"""What a hub may ask and send, through the HTTP application."""

from __future__ import annotations

from serve_app.feeds.websub import Verification
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_http import client_of

PATH = "/v1/websub/feed0/secret"


async def test_a_challenge_comes_back_as_plain_text() -> None:
    services = FakeServices()
    asked = {"hub.mode": "subscribe", "hub.topic": "https://feed.test/", "hub.challenge": "<b>7</b>", "hub.lease_seconds": "60"}
    reply = await client_of(services).get(PATH, params=asked)
    assert (reply.status_code, reply.text, reply.headers["content-type"]) == (200, "<b>7</b>", "text/plain; charset=utf-8")
    assert services.verified == [Verification("subscribe", "https://feed.test/", "<b>7</b>", "60")]
    assert (await client_of(services).get(PATH.replace("secret", "guess"), params=asked)).status_code == 404


async def test_content_is_handed_on_as_it_came() -> None:
    services = FakeServices()
    headers = {"X-Hub-Signature": "sha256=00", "Content-Type": "application/rss+xml"}
    reply = await client_of(services).post(PATH, content=b"<rss>\xff", headers=headers)
    assert (reply.status_code, reply.content) == (202, b"")
    assert services.pushed == [(b"<rss>\xff", "application/rss+xml", "sha256=00")]
    assert (await client_of(services).post("/v1/websub/other/secret", content=b"")).status_code == 404
