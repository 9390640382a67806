"""One Feeds replica over a real database and a real server: what the API asks of it, and a restart in the middle of work."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import sqlalchemy

from serve_app.errors import BadRequest, ConfigError, Conflict, NotFound
from serve_app.feeds.service import FeedsService
from serve_app.messages import Answer, Ask
from serve_app.messages_feeds import Article, ArticleQuery, DailyQuery, Feed
from serve_app.settings import AppSettings, ModelSettings
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.daily import DailyStore
from serve_app.store.database import Database
from serve_app.store.schema import results
from serve_app.store.webhooks import WebhookStore
from tests.fast.fakes_feeds import FakeFeedServer, answer, until


class FakeAnswerCache:
    """Answers each question at once, or not before `let_go` after a `hold`; `asked` keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.next = answer()
        self._gate = asyncio.Event()
        self._gate.set()

    def hold(self) -> None:
        self._gate.clear()

    def let_go(self) -> None:
        self._gate.set()

    async def __call__(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        await self._gate.wait()
        return self.next


class World:
    """A database, a feed's server and an answer cache; `service()` is a replica over them."""

    def __init__(self, folder: pathlib.Path, database_url: str, server: FakeFeedServer) -> None:
        self.app = AppSettings(data_dir=str(folder), database_url=database_url, model=ModelSettings(id="tiny"))
        self.database = Database(self.app.database)
        self.store = ArticleStore(self.database)
        self.server = server
        self.cache = FakeAnswerCache()

    @contextlib.asynccontextmanager
    async def service(self, replica_id: str = "one") -> AsyncIterator[FeedsService]:
        service = FeedsService(self.app, replica_id, self.cache)
        try:
            yield service
        finally:
            await service.stop()

    def config(self, *urls: str, **values: object) -> dict[str, object]:
        """A user_config with these feeds that allows the loopback interface."""
        return {"feeds": [{"url": url} for url in urls], "allow_private_hosts": ["127.0.0.1"], "min_words": 3, **values}

    def articles(self) -> dict[str, Article]:
        return {article.guid: article for article in self.store.query(ArticleQuery(limit=100)).articles}

    def states(self) -> dict[str, str]:
        return {guid: article.state for guid, article in sorted(self.articles().items())}

    def feeds(self) -> dict[str, Feed]:
        return {feed.url: feed for feed in self.store.feeds()}


@pytest.fixture
async def world(tmp_path: pathlib.Path, database_url: str) -> AsyncIterator[World]:
    async with FakeFeedServer() as server:
        world = World(tmp_path, database_url, server)
        yield world
        world.database.close()


async def test_the_first_settings_start_the_loop_and_later_ones_change_it(world: World) -> None:
    world.server.entry("a")
    other = world.server.serve("/other", world.server.feed.body())
    async with world.service() as service:
        service.check()
        await service.tune(world.config(world.server.url()))
        loop, task = service._loop, service._task
        await until(lambda: world.states() == {"a": "done"})
        service.check()
        await service.tune(world.config(world.server.url(), other))
        await until(lambda: set(world.feeds()) == {world.server.url(), other})
        assert (service._loop, service._task) == (loop, task)


async def test_an_article_is_asked_for_as_background_work_on_behalf_of_its_feed(world: World) -> None:
    world.server.entry("a", "A title")
    async with world.service() as service:
        await service.tune(world.config(world.server.url(), summary={"max_tokens": 7, "frequency_penalty": 0.25}))
        await until(lambda: world.states() == {"a": "done"})
    (ask,) = world.cache.asked
    article = world.articles()["a"]
    sampling = ask.generate.sampling
    assert (ask.generate.model, ask.generate.priority, ask.feed_id) == ("tiny", "batch", article.feed_id)
    assert (sampling.max_tokens, sampling.frequency_penalty, sampling.greedy) == (7, 0.25, True)
    assert ask.generate.request_id.startswith(f"article-{article.id}-")
    assert "A title" in ask.generate.messages[-1].content
    assert article.summary is not None
    assert (article.summary.text, article.summary.model) == (answer().text, "tiny")


async def test_bad_settings_keep_the_old_ones_and_are_shown(world: World) -> None:
    async with world.service() as service:
        await service.tune(world.config(max_attempts=2))
        await service.tune(world.config(max_attempts=0))
        assert service._settings.value.max_attempts == 2
        assert service.settings_error == "Feeds.user_config.max_attempts: Input should be greater than or equal to 1, not 0"
        await service.tune(world.config(max_attempts=3))
        assert service._settings.value.max_attempts == 3
        assert not service.settings_error


async def test_with_bad_first_settings_nothing_starts(world: World) -> None:
    async with world.service() as service:
        with pytest.raises(ConfigError, match="max_attempts"):
            await service.tune(world.config(max_attempts=0))
        assert (service._loop, service._task) == (None, None)


async def test_a_feed_that_was_added_is_changed_and_one_of_the_configuration_is_not(world: World) -> None:
    async with world.service() as service:
        await service.tune(world.config())
        added = await service.add_feed("https://feed.test/own", {"title": "Own", "full_text": True})
        assert (added.title, added.options) == ("Own", {"title": "Own", "full_text": True})
        assert (await service.change_feed(added.id, {"full_text": None})).options == {"title": "Own"}
        with pytest.raises(NotFound):
            await service.change_feed("nope", {})


async def test_a_feed_that_is_added_is_read_at_once_and_its_articles_go_with_it(world: World) -> None:
    world.server.entry("a")
    async with world.service() as service:
        await service.tune(world.config())
        added = await service.add_feed(world.server.url())
        assert (added.url, added.origin, added.state) == (world.server.url(), "api", "new")
        await until(lambda: world.states() == {"a": "done"})
        with pytest.raises(Conflict):
            await service.add_feed(world.server.url())
        await service.remove_feed(added.id)
        assert (world.feeds(), world.articles()) == ({}, {})
        with pytest.raises(NotFound):
            await service.remove_feed(added.id)


async def test_a_refreshed_feed_is_checked_again(world: World) -> None:
    world.server.entry("a")
    async with world.service() as service:
        await service.tune(world.config(world.server.url()))
        await until(lambda: world.states() == {"a": "done"})
        world.server.entry("b")
        await service.refresh_feed(world.feeds()[world.server.url()].id)
        await until(lambda: world.states() == {"a": "done", "b": "done"})
        with pytest.raises(NotFound):
            await service.refresh_feed("0" * 16)


async def test_a_retried_article_is_asked_for_again_and_in_another_way(world: World) -> None:
    world.server.entry("a")
    world.cache.next = answer("...")
    async with world.service() as service:
        await service.tune(world.config(world.server.url(), max_attempts=1))
        await until(lambda: world.states() == {"a": "failed"})
        world.cache.next = answer()
        article = world.articles()["a"]
        assert (await service.retry_article(article.id)).state == "pending"
        await until(lambda: world.states() == {"a": "done"})
        first, second = (ask.generate.sampling for ask in world.cache.asked)
        assert (first.greedy, first.seed, second.greedy, second.seed) == (True, None, False, 1)
        with pytest.raises(Conflict, match="this article is done"):
            await service.retry_article(article.id)
        with pytest.raises(NotFound):
            await service.retry_article("0" * 16)


async def test_a_feed_of_the_configuration_cannot_be_removed(world: World) -> None:
    async with world.service() as service:
        await service.tune(world.config(world.server.url()))
        await until(lambda: bool(world.feeds()))
        with pytest.raises(Conflict, match="configuration"):
            await service.remove_feed(world.feeds()[world.server.url()].id)


async def test_an_address_that_no_feed_can_have_is_refused(world: World) -> None:
    async with world.service() as service:
        with pytest.raises(BadRequest, match="unknown scheme 'ftp'") as caught:
            await service.add_feed("ftp://example.org")
        assert (caught.value.param, world.feeds()) == ("url", {})


async def test_a_restart_goes_on_with_what_was_pending_and_keeps_one_result_each(world: World) -> None:
    guids = [f"guid-{number}" for number in range(6)]
    for guid in guids:
        world.server.entry(guid)
    world.cache.hold()
    config = world.config(world.server.url(), max_in_flight=4)
    async with world.service("one") as service:
        await service.tune(config)
        await until(lambda: len(world.cache.asked) == 4)
    assert world.states() == dict.fromkeys(guids, "pending")
    world.cache.let_go()
    async with world.service("two") as service:
        await service.tune(config)
        await until(lambda: world.states() == dict.fromkeys(guids, "done"))
    with world.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*), count(DISTINCT article_id) FROM results").one() == (6, 6)
    asked = Counter(ask.generate.request_id.rsplit("-", 1)[0] for ask in world.cache.asked)
    assert len(asked) == 6
    assert sorted(asked.values()) == [1, 1, 2, 2, 2, 2]


async def test_a_stop_right_after_the_start_leaves_no_loop_behind(world: World) -> None:
    async with world.service() as service:
        await service.tune(world.config(world.server.url()))
    assert service._task is not None
    assert service._task.done()
    assert world.store.lease(LEASE, "next", 0.0, 10.0), "the lease is free"


async def test_a_summary_reaches_its_webhook_also_after_a_restart_and_once(world: World) -> None:
    world.server.entry("a")
    hook = {"url": world.server.hang("/in"), "secret": "whsec_" + "A" * 32}
    async with world.service() as service:
        await service.tune(world.config(world.server.url(), webhooks=[hook]))
        await until(lambda: [request.path for request in world.server.requests].count("/in") == 1)
    webhooks = WebhookStore(world.database)
    assert [(one.pending, one.num_delivered) for one in webhooks.health()] == [(1, 0)], "killed while it was sent: it stays"
    world.server.entry("b")
    moved = {**hook, "url": world.server.serve("/other", b"")}
    async with world.service("two") as service:
        await service.tune(world.config(world.server.url(), webhooks=[moved]))
        await service.refresh_feed(next(iter(world.feeds().values())).id)
        await until(lambda: [one.num_delivered for one in webhooks.health() if one.state == "active"] == [1])
        (active,) = (one for one in webhooks.health() if one.state == "active")
        assert await service.test_webhook(active.id)
        await until(lambda: [one.num_delivered for one in webhooks.health() if one.state == "active"] == [2])
        assert await service.redeliver(active.id, None) == 0
        with pytest.raises(NotFound, match="no webhook"):
            await service.test_webhook("nope")


async def test_a_daily_digest_is_asked_for_as_background_work_about_what_was_summarised(world: World) -> None:
    world.server.entry("a", "A title")
    async with world.service() as service:
        await service.tune(world.config(world.server.url()))
        await until(lambda: world.states() == {"a": "done"})
    with world.database.begin() as connection:
        connection.execute(sqlalchemy.update(results).values(created_at=results.c.created_at - 43_200))
    at = time.strftime("%H:%M", time.gmtime(time.time() - 90))  # a day ended a minute or two ago
    store = DailyStore(world.database)
    async with world.service() as service:
        await service.tune(world.config(world.server.url(), digest={"tags": ["*"], "at": at, "max_tokens": 7}))
        await until(lambda: [digest.state for digest in store.query(DailyQuery()).digests] == ["done"])
    ask = world.cache.asked[-1]
    assert (ask.generate.model, ask.generate.priority, ask.feed_id, ask.generate.sampling.max_tokens) == ("tiny", "batch", "", 7)
    assert "A title" in ask.generate.messages[-1].content
