"""The server killed with -9 in the middle of writes, and started again: what was said to be stored is there, and nothing half."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from serve_app.api.graph_services import GraphServices
from serve_app.cache.shard import AnswerShard
from serve_app.errors import DatabaseUnavailable
from serve_app.live import Live
from serve_app.messages import Answer
from serve_app.messages_feeds import ArticleQuery
from serve_app.metrics import Sample
from serve_app.settings import AppSettings, IngressSettings
from serve_app.store.answers import AnswerStore
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger, LedgerRow
from serve_app.store.records import FeedCheck
from tests.contract_store.answers import stored
from tests.contract_store.makers import FEED, ME, URL, article
from tests.fast.fakes import FakeModel, ask
from tests.fast.fakes_feeds import FakeFeedServer, until
from tests.fast.test_feeds_service import World
from tests.fast.test_graph_services import FakeCalls
from tests.postgres.server import PostgresServer

KILLS = 3
ROW = LedgerRow(3600, "tiny", "", "hit", "stop", 1, 2, 3, 0.5, 0.5, 0.5, 0.5, 0.5)


class Writer:
    """Writes one thing after the other in a thread, over kills: `done` counts what was acknowledged, `refused` what was not."""

    def __init__(self, write: Callable[[int], object]) -> None:
        self.done, self.refused = 0, 0
        self.errors: list[BaseException] = []
        self._write = write
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            while not self._end.is_set():
                try:
                    self._write(number)
                except DatabaseUnavailable:
                    self.refused += 1
                    self._end.wait(0.02)
                    continue
                except BaseException as error:
                    self.errors.append(error)
                    return
                self.done += 1
                break
            else:
                return

    def goes_on(self, steps: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = self.done + steps
        while self.done < goal and self._thread.is_alive():
            self._end.wait(0.001)

    def end(self) -> None:
        self._end.set()
        self._thread.join(30)


def test_writers_go_on_after_every_kill_and_nothing_is_lost_or_torn(server: PostgresServer, database: Database) -> None:
    answers, ledger, articles = AnswerStore(database), Ledger(database), ArticleStore(database)
    assert articles.lease(LEASE, ME, 0.0, 1e9)
    articles.add_feed(URL, 1.0)

    def check(number: int) -> None:
        found = tuple(article(f"{number}-{which}") for which in "abc")
        articles.record_check(ME, FEED, FeedCheck(2.0, 200, 3.0, f'"{number}"', None, "", found))

    writers = [
        Writer(lambda number: answers.put(stored(number, f"answer {number} " * 5_000))),
        Writer(lambda _number: ledger.add([ROW, ROW])),
        Writer(check),
    ]
    try:
        for _ in range(KILLS):
            for writer in writers:
                writer.goes_on(5)
            server.kill()
            server.start()
        for writer in writers:
            writer.goes_on(5)
    finally:
        for writer in writers:
            writer.end()
    of_answers, of_ledger, of_checks = writers
    assert [writer.errors for writer in writers] == [[], [], []]
    assert all(writer.refused for writer in writers), "every kill came between, so nobody saw one"
    for number in range(of_answers.done):
        assert answers.get(stored(number).key) == stored(number, f"answer {number} " * 5_000)
    # A commit that was under way when the server died may be there without having been acknowledged, and is then added again.
    (row,) = ledger.rows()
    assert row.requests % 2 == 0
    assert 2 * of_ledger.done <= row.requests <= 2 * (of_ledger.done + KILLS)
    etag, stored_articles = articles.feed(FEED).etag, articles.counts()["pending"]
    assert stored_articles % 3 == 0
    assert etag == f'"{stored_articles // 3 - 1}"', "the validator belongs to the last articles"
    assert of_checks.done <= stored_articles // 3 <= of_checks.done + 1


@pytest.fixture
def app(tmp_path: pathlib.Path, database_url: str) -> AppSettings:
    return AppSettings(data_dir=str(tmp_path), database_url=database_url)


class Cache:
    """A shard over the server, and a model that answers in two words."""

    def __init__(self, app: AppSettings) -> None:
        self.model = FakeModel()
        self.shard = AnswerShard(app, self.model.generate, self.model.fingerprint, self.model.promote)
        self.outcomes: Counter[str] = Counter()

    async def asked(self, text: str) -> Answer:
        known = len(self.model.requests)
        caller = asyncio.create_task(self.shard.answers.whole(ask(text)))
        while not caller.done() and len(self.model.requests) == known:
            await asyncio.wait([caller], timeout=0.01)
        if len(self.model.requests) > known:
            self.model.say("two ", "words")
            self.model.finish()
        answer = await caller
        self.outcomes[answer.opening.outcome] += 1
        return answer

    def errors(self, operation: str) -> float:
        return sum(sample.value for sample in self._samples("frugal_cache_errors_total") if sample.labels == (("operation", operation),))

    def store_up(self) -> float:
        return sum(sample.value for sample in self._samples("frugal_cache_store_up"))

    def _samples(self, name: str) -> tuple[Sample, ...]:
        return dict(self.shard.metrics.snapshot("AnswerCache", "one").families).get(name, ())


async def test_without_the_database_every_answer_is_made_and_afterwards_the_stored_ones_are_back(
    server: PostgresServer, app: AppSettings
) -> None:
    cache = Cache(app)
    cache.shard.tune({"memory_bytes": 0})
    assert (await cache.asked("one")).opening.outcome == "miss"
    assert (await cache.asked("one")).opening.outcome == "hit"
    server.kill()
    try:
        assert ((await cache.asked("one")).opening.outcome, (await cache.asked("two")).text) == ("miss", "two words")
        assert (cache.errors("get"), cache.errors("put")) == (2, 2)
        with pytest.raises(DatabaseUnavailable):
            await cache.shard.flush()
    finally:
        server.start()
    while cache.store_up() == 0:  # it is left alone for half a second, or twice that
        await cache.asked("one")
    assert (await cache.asked("one")).opening.outcome == "hit"
    await cache.shard.stop()
    with contextlib.closing(Database(app.database)) as database:
        booked = {row.outcome: row.requests for row in Ledger(database).rows()}
    assert booked == cache.outcomes


async def test_a_database_that_does_not_even_refuse_costs_an_answer_little_time(server: PostgresServer, app: AppSettings) -> None:
    cache = Cache(app)
    cache.shard.tune({"memory_bytes": 0, "store_timeout_s": 0.2})
    await cache.asked("one")
    with server.frozen():
        async with asyncio.timeout(10):
            assert (await cache.asked("one")).opening.outcome == "miss"
        assert (cache.errors("get"), cache.errors("put")) == (1, 1)
    assert (await cache.asked("one")).opening.outcome == "hit"
    await cache.shard.stop()


async def test_the_feeds_loop_goes_on_where_it_was(server: PostgresServer, tmp_path: pathlib.Path, database_url: str) -> None:
    guids = [f"guid-{number}" for number in range(6)]
    async with FakeFeedServer() as feeds:
        world = World(tmp_path, database_url, feeds)
        for guid in guids:
            feeds.entry(guid)
        world.cache.hold()
        async with world.service() as service:
            await service.tune(world.config(feeds.url()))
            await until(lambda: len(world.cache.asked) == len(guids))
            await asyncio.to_thread(server.kill)
            world.cache.let_go()
            await asyncio.to_thread(server.start)
            await until(lambda: world.states() == dict.fromkeys(guids, "done"))
            service.check()
        world.database.close()


async def test_without_the_database_lists_are_refused_until_it_is_back(server: PostgresServer, app: AppSettings) -> None:
    services = GraphServices(app, Live(IngressSettings, "Ingress.user_config"), FakeCalls())
    server.kill()
    try:
        for read in (services.articles(ArticleQuery()), services.feeds(), services.ready()):
            with pytest.raises(DatabaseUnavailable):
                await read
    finally:
        server.start()
    assert (await services.articles(ArticleQuery())).articles == ()
    await services.stop()
