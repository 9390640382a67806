"""/v1/webhooks over HTTP: health for everybody, sending for who has the admin key, secrets for nobody."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import pytest

from serve_app.admin_key import sha256_of
from serve_app.store.webhooks import Delivery, Health
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_http import client_of

ADMIN = "frugal-admin-key-of-this-test"
ONE = Health(
    "w0", "https://me.test/...", ("article.done",), (), ("ai",), "active", None, 7, 2, 500, "it answered with status 500", 5.0, 6.0, 3, 2
)
DEAD = [
    Delivery(f"msg_{number}", "w0", "article.done", '{"type":"article.done","data":{}}', 1.0, 8, None, 500, "it answered with status 500")
    for number in range(2)
]
SENDING = ("/v1/webhooks/w0/redeliver", "/v1/webhooks/w0/test")


def services(**changes: Any) -> FakeServices:
    return FakeServices(**{"all_webhooks": [ONE], "dead": DEAD, "key_sha256": sha256_of(ADMIN), **changes})


def admin(known: FakeServices) -> httpx.AsyncClient:
    return client_of(known, headers={"authorization": f"Bearer {ADMIN}"})


async def test_health_is_shown_without_a_key() -> None:
    reply = await client_of(services()).get("/v1/webhooks")
    assert reply.json()["data"] == [
        {"object": "webhook", **dataclasses.asdict(ONE), "events": ["article.done"], "feeds": [], "tags": ["ai"]},
    ]


async def test_dead_letters_are_shown_with_what_they_said() -> None:
    client = client_of(services())
    reply = (await client.get("/v1/webhooks/w0/dead", params={"limit": 1})).json()
    assert (reply["has_more"], [one["id"] for one in reply["data"]]) == (True, ["msg_0"])
    assert reply["data"][0]["body"] == {"type": "article.done", "data": {}}
    assert (await client.get("/v1/webhooks/w0/dead")).json()["has_more"] is False
    assert (await client.get("/v1/webhooks/nope/dead")).status_code == 404
    assert (await client.get("/v1/webhooks/w0/dead", params={"limit": 0})).status_code == 400


@pytest.mark.parametrize("path", SENDING)
async def test_sending_needs_the_admin_key(path: str) -> None:
    known = services()
    assert (await client_of(known).post(path)).status_code == 401
    assert (await client_of(known, headers={"authorization": "Bearer wrong"}).post(path)).status_code == 401
    known.key_sha256 = None
    assert (await admin(known).post(path)).status_code == 403
    assert known.sent_again == []


async def test_dead_letters_are_sent_again_all_or_some() -> None:
    known = services()
    async with admin(known) as client:
        every = await client.post(SENDING[0])
        some = await client.post(SENDING[0], json={"ids": ["msg_1"]})
        assert (every.status_code, every.json()) == (202, {"object": "redelivery", "redelivered": 2})
        assert some.json()["redelivered"] == 1
        assert known.sent_again == [("w0", None), ("w0", ("msg_1",))]
        wrong: list[dict[str, Any]] = [{"ids": []}, {"ids": "msg_1"}, {"id": "msg_1"}]
        for bad in wrong:
            assert (await client.post(SENDING[0], json=bad)).status_code == 400


async def test_a_test_message_is_sent_to_one_that_is_active() -> None:
    known = services()
    reply = await admin(known).post(SENDING[1])
    assert (reply.status_code, reply.json()) == (202, {"object": "delivery", "id": "msg_test", "event": "webhook.test"})
    known.all_webhooks = [dataclasses.replace(ONE, state="disabled")]
    assert (await admin(known).post(SENDING[1])).status_code == 409
    assert (await admin(known).post("/v1/webhooks/nope/test")).status_code == 404
