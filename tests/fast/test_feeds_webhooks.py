"""Messages on their way to real receivers: signed, tried again, given up, and none waits for another receiver."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.errors import FetchError
from serve_app.feeds.webhook_post import Poster
from serve_app.feeds.webhooks import (
    DELAYS_S,
    MAX_REST_S,
    MAX_RETRY_AFTER_S,
    PER_WEBHOOK,
    Deliverer,
    Posted,
    Verdict,
    rest_s,
    signature,
    verdict,
)
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.settings_webhooks import Webhook, signing_keys
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.database import Database
from serve_app.store.webhooks import KEEP_S, Health, WebhookStore
from tests.fast.fakes_feeds import Clock, FakeFeedServer, settings_for, until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the standard's own example
ME = "me"


def test_a_signature_is_that_of_the_standards_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks: the case that its libraries test themselves with
    body = b'{"test": 2432232314}'
    assert signature(signing_keys(SECRET)[0], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    ("posted", "attempts", "expected"),
    [
        (Posted(200), 0, Verdict("done")),
        (Posted(204), 99, Verdict("done")),
        (Posted(410), 0, Verdict("gone")),
        (Posted(301), 0, Verdict("again", 5.0)),
        (Posted(500), 1, Verdict("again", 300.0)),
        (None, 2, Verdict("again", 1_800.0)),
        (Posted(429, retry_after_s=60), 0, Verdict("again", 60.0)),
        (Posted(503, retry_after_s=1e9), 0, Verdict("again", MAX_RETRY_AFTER_S)),
        (Posted(500), len(DELAYS_S), Verdict("dead")),
        (None, len(DELAYS_S), Verdict("dead")),
    ],
)
def test_what_becomes_of_a_message(posted: Posted | None, attempts: int, expected: Verdict) -> None:
    assert verdict(posted, attempts, 0.5) == expected


def test_tries_go_on_for_about_a_day_and_receivers_are_not_asked_in_step() -> None:
    assert 20 * 3600 < sum(DELAYS_S) < 28 * 3600
    assert verdict(None, 1, 0.0).again_s == pytest.approx(270)
    assert verdict(None, 1, 1.0).again_s == pytest.approx(330)


class World:
    """A deliverer over a real outbox and a real server."""

    def __init__(self, database: Database, server: FakeFeedServer) -> None:
        self.server, self.clock, self.metrics = server, Clock(1_800_000_000.0), Metrics()
        self.lease, self.store = ArticleStore(database), WebhookStore(database)
        assert self.lease.lease(LEASE, ME, 0.0, 1e12)
        self.environment: dict[str, str] = {}
        self.webhooks: tuple[Webhook, ...] = ()

    def receiver(self, path: str, status: int = 200, **values: Any) -> Webhook:
        """A webhook whose receiver answers with this status."""
        webhook = Webhook(**{"url": self.server.serve(path, b"ok", status=status), "secret": SECRET, **values})
        self.webhooks = (*self.webhooks, webhook)
        self.store.sync(ME, self.webhooks, self.clock.now)
        return webhook

    def send(self, webhook: Webhook, number: int = 1) -> list[str]:
        """Put messages into the outbox; gives their ids."""
        return [self.store.test(webhook.id, self.clock.now) for _ in range(number)]

    def health(self, webhook: Webhook) -> Health:
        return {one.id: one for one in self.store.health()}[webhook.id]

    def got(self, path: str) -> list[str]:
        return [request.headers["webhook-id"] for request in self.server.requests if request.path == path]

    @contextlib.asynccontextmanager
    async def sending(self, holder: str = ME, **poster: Any) -> AsyncIterator[asyncio.Task[None]]:
        post = Poster(settings_for(), **poster)
        deliverer = Deliverer(
            self.store, post, self.metrics, holder, self.clock, jitter=lambda: 0.5, environment=self.environment, idle_wait_s=0.01
        )
        deliverer.reconfigure(self.webhooks)
        task = asyncio.create_task(deliverer.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            post.close()


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with FakeFeedServer() as server:
        yield World(database, server)


async def test_a_receiver_can_prove_that_a_message_is_ours(world: World) -> None:
    taken: list[tuple[dict[str, str], bytes]] = []
    webhook = world.receiver("/in")
    (message_id,) = world.send(webhook)

    class Kept(Poster):
        async def __call__(self, url: str, body: bytes, headers: Any) -> Posted:
            taken.append((dict(headers), body))
            return await super().__call__(url, body, headers)

    post = Kept(settings_for())
    deliverer = Deliverer(world.store, post, world.metrics, ME, world.clock, idle_wait_s=0.01)
    deliverer.reconfigure(world.webhooks)
    task = asyncio.create_task(deliverer.run())
    await until(lambda: world.health(webhook).num_delivered == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    post.close()
    ((headers, body),) = taken
    (request,) = world.server.requests
    assert (request.method, request.headers["webhook-id"], request.headers["content-type"]) == ("POST", message_id, "application/json")
    assert request.headers["user-agent"].startswith("FrugalServe/")
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
    mine = hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    version, _, theirs = request.headers["webhook-signature"].partition(",")
    assert (version, base64.b64decode(theirs)) == ("v1", mine)
    assert headers["webhook-timestamp"] == "1800000000"
    assert json.loads(body) == {
        "type": "webhook.test",
        "timestamp": dt.datetime.fromtimestamp(1_800_000_000, dt.UTC).isoformat().replace("+00:00", "Z"),
        "data": {"object": "webhook", "id": webhook.id},
    }


async def test_a_receiver_in_trouble_gets_the_same_message_again_until_it_takes_it(world: World) -> None:
    webhook = world.receiver("/in", 500)
    (message_id,) = world.send(webhook)
    async with world.sending():
        await until(lambda: world.health(webhook).num_errors == 1)
        assert world.health(webhook).last_error == "it answered with status 500"
        world.clock.pass_s(5.0)
        await until(lambda: world.health(webhook).num_errors == 2)
        world.server.serve("/in", b"")
        world.clock.pass_s(300.0)
        await until(lambda: world.health(webhook).num_delivered == 1)
    assert world.got("/in") == [message_id] * 3
    assert (world.health(webhook).pending, world.health(webhook).num_errors) == (0, 0)


async def test_after_about_a_day_it_is_a_dead_letter_that_a_person_can_send_again(world: World) -> None:
    webhook = world.receiver("/in", 404)
    (message_id,) = world.send(webhook)
    async with world.sending():
        for number, delay_s in enumerate((*DELAYS_S, 0.0), start=1):
            await until(lambda number=number: world.health(webhook).num_errors == number)  # type: ignore[misc]
            world.clock.pass_s(delay_s)
        await until(lambda: world.health(webhook).dead == 1)
        world.server.serve("/in", b"")
        world.clock.pass_s(MAX_REST_S)
        assert world.store.redeliver(webhook.id, None, world.clock.now) == 1
        await until(lambda: world.health(webhook).num_delivered == 1)
    assert set(world.got("/in")) == {message_id}
    assert len(world.got("/in")) == len(DELAYS_S) + 2


async def test_410_ends_it_until_its_settings_change(world: World) -> None:
    webhook = world.receiver("/in", 410)
    world.send(webhook, 5)
    async with world.sending():
        await until(lambda: world.health(webhook).state == "disabled")
    assert len(world.got("/in")) <= PER_WEBHOOK
    assert (world.health(webhook).pending, world.health(webhook).dead) == (0, 5)


async def test_a_redirect_is_not_followed(world: World) -> None:
    webhook = world.receiver("/in")
    world.server.redirect("/in", world.server.url("/elsewhere"))
    world.send(webhook)
    async with world.sending():
        await until(lambda: world.health(webhook).num_errors == 1)
    assert "redirect (302), which is not followed" in (world.health(webhook).last_error or "")
    assert world.got("/elsewhere") == []


async def test_a_receiver_that_hangs_delays_no_other(world: World) -> None:
    slow, quick = world.receiver("/slow"), world.receiver("/quick")
    world.server.hang("/slow")
    world.send(slow, 20)
    world.send(quick, 20)
    async with world.sending():
        await until(lambda: world.health(quick).num_delivered == 20)
        assert len(world.got("/slow")) == PER_WEBHOOK
    assert len(set(world.got("/quick"))) == 20


async def test_a_receiver_that_is_down_is_not_asked_for_every_message_at_once(world: World) -> None:
    webhook = world.receiver("/in", 503)
    ids = world.send(webhook, 10)
    async with world.sending():
        await until(lambda: world.health(webhook).num_errors == PER_WEBHOOK)
        reads = world.clock.num_reads
        await until(lambda: world.clock.num_reads > reads + 50)
        assert len(world.got("/in")) == PER_WEBHOOK
        world.server.serve("/in", b"")
        world.clock.pass_s(5.0)
        await until(lambda: world.health(webhook).num_delivered == 10)
    assert set(world.got("/in")) == set(ids)
    assert [rest_s(number) for number in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, MAX_REST_S]


async def test_one_that_never_answers_is_given_up_in_time(world: World) -> None:
    webhook = world.receiver("/in")
    world.server.hang("/in")
    world.send(webhook)
    async with world.sending(timeout_s=0.05):
        await until(lambda: world.health(webhook).num_errors == 1)
    assert world.health(webhook).last_error == "127.0.0.1 did not answer within 0.05 s"


async def test_a_crash_while_it_is_sent_sends_it_again_later_and_not_at_once(world: World) -> None:
    webhook = world.receiver("/in")
    world.server.hang("/in")
    (message_id,) = world.send(webhook)
    async with world.sending():
        await until(lambda: len(world.got("/in")) == 1)
    assert world.store.due(webhook.id, world.clock.now, 9) == ()
    world.clock.pass_s(60.0)
    assert [one.id for one in world.store.due(webhook.id, world.clock.now, 9)] == [message_id]


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/in", "http://169.254.169.254/latest", "http://[::1]/", "http://0x7f.1/", "http://127.0.0.1:22/"]
)
async def test_private_addresses_are_refused_unless_they_are_allowed(url: str) -> None:
    post = Poster(FeedsSettings())
    with pytest.raises(FetchError, match=r"private|odd way|belongs to another protocol"):
        await post(url, b"{}", {})
    post.close()


class Rebinding(AbstractResolver):
    """Names that lead to a private address from the second question on."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        address = self.addresses.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to let go of."""


async def test_a_name_that_leads_into_a_private_network_is_refused_at_every_try() -> None:
    post = Poster(FeedsSettings(), resolver=Rebinding("10.0.0.1", "::ffff:127.0.0.1"))
    for _ in range(2):
        with pytest.raises(FetchError, match=r"me\.test is in a private or reserved network"):
            await post("http://me.test/in", b"{}", {})
    post.close()


async def test_what_is_too_old_goes_while_it_runs(world: World) -> None:
    webhook = world.receiver("/in", 500)
    world.send(webhook)
    async with world.sending():
        await until(lambda: world.health(webhook).num_errors == 1)
        world.clock.pass_s(KEEP_S + 1)
        await until(lambda: world.health(webhook).pending == 0)


async def test_without_its_variable_a_message_waits_and_says_so(world: World) -> None:
    webhook = world.receiver("/in", secret=None, secret_env="HOOK_SECRET")
    world.send(webhook)
    async with world.sending():
        await until(lambda: world.health(webhook).num_errors == 1)
        assert "HOOK_SECRET is not set" in (world.health(webhook).last_error or "")
        world.environment["HOOK_SECRET"] = "short"
        world.clock.pass_s(5.0)
        await until(lambda: world.health(webhook).num_errors == 2)
        assert "HOOK_SECRET does not begin with whsec_" in (world.health(webhook).last_error or "")
        world.environment["HOOK_SECRET"] = SECRET
        world.clock.pass_s(300.0)
        await until(lambda: world.health(webhook).num_delivered == 1)


async def test_who_loses_the_lease_stops_sending(world: World) -> None:
    webhook = world.receiver("/in")
    async with world.sending() as task:
        world.lease.release(LEASE, ME)
        assert world.lease.lease(LEASE, "another", 0.0, 1e12)
        world.store.test(webhook.id, world.clock.now)
        with pytest.raises(LeaseLost):
            await task
    assert world.got("/in") == []
