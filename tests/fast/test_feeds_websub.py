"""A feed with a hub: subscribed to, verified, pushed, renewed; and polled as ever wherever any of this fails."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import pathlib
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import parse_qs

import pytest
from aiohttp import ClientSession, web

from serve_app.errors import ConfigError, FetchError, NotFound
from serve_app.feeds.service import FeedsService
from serve_app.feeds.websub import LEASE_S, RENEW_AT, VERIFY_S, Subscriber, Verification, callback, form, is_signed, wanted
from serve_app.settings import AppSettings, ModelSettings
from serve_app.settings_feeds import FeedEntry, FeedsSettings
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from serve_app.store.websub import Subscription, SubscriptionStore
from tests.fast.fakes_feeds import Clock, FakeFeed, FakeFeedServer, until
from tests.fast.test_feeds_service import FakeAnswerCache

URL, HUB, TOPIC = "https://feed.test/rss", "https://hub.test/", "https://feed.test/self"
FEED = feed_id(URL)
SETTINGS = FeedsSettings(websub_callback_url="https://me.test/base/")


def signed(secret: str, body: bytes, method: str = "sha256") -> str:
    return f"{method}={hmac.new(secret.encode(), body, method).hexdigest()}"


@pytest.mark.parametrize("method", ["sha1", "sha256", "sha384", "sha512"])
def test_a_signature_counts_by_any_of_the_four_methods(method: str) -> None:
    good = signed("key", b"body", method)
    assert is_signed("key", b"body", good)
    assert is_signed("key", b"body", good.upper())
    weak = "md5=" + hashlib.md5(b"body").hexdigest()
    for bad in (good[:-1], good + "0", signed("other", b"body", method), f"{method}=", "", weak, "sha1=é"):
        assert not is_signed("key", b"body", bad)
    assert not is_signed("key", b"another body", good)


@pytest.mark.parametrize("url", ["me.test", "ftp://me.test", "https://ann:x@me.test", "https://me.test/?x=1", ""])
def test_an_address_that_no_hub_could_use_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="websub_callback_url"):
        FeedsSettings.load({"websub_callback_url": url})


def test_what_a_document_advertises_is_wanted_once() -> None:
    first = wanted(None, FEED, HUB, TOPIC, 5.0)
    assert first is not None
    assert (first.state, first.next_ask_at, len(first.token), len(first.secret)) == ("wanted", 5.0, 32, 64)
    assert wanted(first, FEED, HUB, TOPIC, 9.0) is first
    other = wanted(first, FEED, "https://other.test/", TOPIC, 9.0)
    assert other is not None
    assert other.secret != first.secret
    assert wanted(first, FEED, None, TOPIC, 9.0) is None
    assert wanted(None, FEED, "javascript:x", TOPIC, 9.0) is None
    assert callback("https://me.test/base/", first) == f"https://me.test/base/v1/websub/{FEED}/{first.token}"
    assert form("https://me.test", first)["hub.secret"] == first.secret


class Hub:
    """Stands for Fetcher.post; `asked` keeps the forms."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: FetchError | None = None

    async def post(self, url: str, sent: object) -> int:
        self.asked.append(url)
        if self.error:
            raise self.error
        return 202


@pytest.fixture
def store(database: Database) -> SubscriptionStore:
    articles = ArticleStore(database)
    assert articles.lease(LEASE, "me", 0.0, 1e9)
    articles.sync_configured("me", [FeedEntry(url=URL)], 0.0)
    return SubscriptionStore(database)


def found(store: SubscriptionStore) -> Subscription:
    subscription = store.get(FEED)
    assert subscription is not None
    return subscription


async def test_a_subscription_is_asked_for_verified_and_renewed_before_it_ends(store: SubscriptionStore) -> None:
    hub, clock = Hub(), Clock(1000.0)
    subscriber = Subscriber(store, hub.post, clock)
    subscriber.advertised(FEED, HUB, TOPIC)
    await subscriber.ask(FeedsSettings())
    assert hub.asked == [], "without an address of our own nobody is asked"
    await subscriber.ask(SETTINGS)
    await subscriber.ask(SETTINGS)
    one = found(store)
    assert (hub.asked, one.state, one.next_ask_at, subscriber.is_pushed(FEED)) == ([HUB], "asked", 1000.0 + VERIFY_S, False)
    assert subscriber.verified(FEED, one.token, Verification("subscribe", TOPIC, "7", "1000")) == "7"
    assert (found(store).state, found(store).lease_until, found(store).next_ask_at) == ("active", 2000.0, 1000.0 + RENEW_AT * 1000)
    assert subscriber.is_pushed(FEED)
    clock.pass_s(RENEW_AT * 1000)
    await subscriber.ask(SETTINGS)
    assert (len(hub.asked), found(store).state, subscriber.is_pushed(FEED)) == (2, "active", True)
    clock.pass_s(1000)
    assert not subscriber.is_pushed(FEED), "not renewed: polled again"
    subscriber.verified(FEED, one.token, Verification("subscribe", TOPIC, "8"))
    assert found(store).lease_until == clock() + LEASE_S


async def test_what_nobody_asked_for_is_not_confirmed(store: SubscriptionStore) -> None:
    subscriber = Subscriber(store, Hub().post, Clock())
    subscriber.advertised(FEED, HUB, TOPIC)
    token = found(store).token
    good = Verification("subscribe", TOPIC, "7")
    for feed, key, asked in (
        (FEED, "guess", good),
        (FEED, "é", good),
        ("other", token, good),
        (FEED, token, replace(good, topic="https://other.test/")),
        (FEED, token, replace(good, mode="unsubscribe")),
        (FEED, token, replace(good, challenge="")),
        (FEED, token, replace(good, challenge="x" * 3000)),
    ):
        with pytest.raises(NotFound):
            subscriber.verified(feed, key, asked)
    assert found(store).state == "wanted"


async def test_a_hub_that_fails_or_refuses_is_asked_again_later(store: SubscriptionStore) -> None:
    hub, clock = Hub(), Clock(0.0)
    subscriber = Subscriber(store, hub.post, clock)
    subscriber.advertised(FEED, HUB, TOPIC)
    hub.error = FetchError("hub.test refuses connections")
    waits = []
    for _ in range(3):
        await subscriber.ask(SETTINGS)
        waits.append(found(store).next_ask_at - clock())
        clock.now = found(store).next_ask_at
    assert (waits, found(store).last_error) == ([3600.0, 7200.0, 14_400.0], "hub.test refuses connections")
    assert subscriber.verified(FEED, found(store).token, Verification("denied", TOPIC, reason="no")) == ""
    assert (found(store).state, found(store).last_error, subscriber.is_pushed(FEED)) == ("refused", "no", False)
    subscriber.advertised(FEED, None, None)
    assert store.get(FEED) is None


class Website:
    """A feed and its hub on one real server, and the callback of a real FeedsService behind another."""

    def __init__(self, service: FeedsService, server: FakeFeedServer) -> None:
        self.service, self.server, self.forms = service, server, list[dict[str, str]]()

    async def take_form(self, request: web.Request) -> web.Response:
        self.forms.append({name: values[0] for name, values in parse_qs(await request.text()).items()})
        return web.Response(status=202)

    async def verify(self, request: web.Request) -> web.Response:
        asked = Verification(*(request.query.get(f"hub.{name}", "") for name in ("mode", "topic", "challenge", "lease_seconds")))
        return web.Response(text=await self.service.verify_push(request.match_info["feed"], request.match_info["token"], asked))

    async def push(self, request: web.Request) -> web.Response:
        signature = request.headers.get("X-Hub-Signature", "")
        body, kind = await request.read(), request.headers.get("Content-Type")
        await self.service.take_push(request.match_info["feed"], request.match_info["token"], body, kind, signature)
        return web.Response(status=202)


@contextlib.asynccontextmanager
async def website(service: FeedsService, server: FakeFeedServer) -> AsyncIterator[tuple[Website, int]]:
    site = Website(service, server)
    app = web.Application()
    app.router.add_post("/hub", site.take_form)
    app.router.add_get("/v1/websub/{feed}/{token}", site.verify)
    app.router.add_post("/v1/websub/{feed}/{token}", site.push)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield site, int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_over_http_a_hub_verifies_and_pushes_and_only_what_it_signed_counts(tmp_path: pathlib.Path, database: Database) -> None:
    app = AppSettings(data_dir=str(tmp_path), database_url=database.url, model=ModelSettings(id="tiny"))
    service, store = FeedsService(app, "one", FakeAnswerCache()), ArticleStore(database)
    async with FakeFeedServer() as server, website(service, server) as (site, port):
        base = f"http://127.0.0.1:{port}"
        feed = FakeFeed().entry("a")
        server.serve("/live", feed.body(), {"Link": f'<{base}/hub>; rel="hub", <https://feed.test/self>; rel="self"', "ETag": '"1"'})
        config = {"feeds": [{"url": server.url("/live")}], "allow_private_hosts": ["127.0.0.1"], "min_words": 3}
        await service.tune({**config, "websub_callback_url": base})
        await until(lambda: store.counts()["done"] == 1)
        assert service._loop is not None
        service._loop.wake()
        await until(lambda: len(site.forms) == 1)
        asked = site.forms[0]
        assert (asked["hub.mode"], asked["hub.topic"]) == ("subscribe", "https://feed.test/self")
        async with ClientSession() as hub:
            params = {"hub.mode": "subscribe", "hub.topic": asked["hub.topic"], "hub.challenge": "42", "hub.lease_seconds": "86400"}
            async with hub.get(asked["hub.callback"], params=params) as reply:
                assert await reply.text() == "42"
            body = FakeFeed().entry("b").body()
            for content, signature in (
                (FakeFeed().entry("forged").body(), "sha256=00"),
                (b"no feed", signed(asked["hub.secret"], b"no feed")),
                (body, signed(asked["hub.secret"], body)),
            ):
                async with hub.post(asked["hub.callback"], data=content, headers={"X-Hub-Signature": signature}) as reply:
                    assert reply.status == 202
        await until(lambda: store.counts()["done"] == 2)
        own = feed_id(server.url("/live"))
        assert set(store.known(own, ["a", "b", "forged"])) == {"a", "b"}
        assert store.feed(own).etag == '"1"'
        assert store.feed(own).next_check_at > (store.feed(own).last_success_at or 0) + 80_000, "polled once a day now"
        assert len(server.requests) == 1
    await service.stop()
