"""Two transactions at the worst moment of each other: one is stopped in the middle until the server says that the other waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, select

from serve_app.errors import Conflict, NotFound
from serve_app.settings_feeds import FeedEntry
from serve_app.store import leases
from serve_app.store.answers import AnswerStore
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.database import Database
from serve_app.store.schema import results
from tests.contract_store.makers import FEED, ME, OTHER, URL, article, check, summary, with_articles
from tests.postgres.server import PostgresServer

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


class Race:
    """Two processes over one database, as two engines: `first` is stopped before a statement, `second` runs into it."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self.databases = [Database(url), Database(url)]
        self.first, self.second = (ArticleStore(database) for database in self.databases)
        self._threads = ThreadPoolExecutor(2)
        self.waited = False

    def close(self) -> None:
        self._threads.shutdown()
        for database in self.databases:
            database.close()

    def run(self, before: str, first: Callable[[], object], second: Callable[[], object]) -> tuple[Future[object], Future[object]]:
        """Stop `first` before the statement that begins with `before`, start `second`, and let both go on once it waits."""
        arrived, go = threading.Event(), threading.Event()

        def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith(before):
                arrived.set()
                assert go.wait(30)

        with self._listening(stop):
            one = self._threads.submit(first)
            assert arrived.wait(10), "the first never came to that statement"
            two = self._threads.submit(second)
            while not two.done() and not self.waited:
                self.waited = self._server.sql(WAITING) != [(0,)]
            go.set()
            one.exception(30)
            two.exception(30)
        return one, two

    @contextlib.contextmanager
    def _listening(self, stop: Callable[..., None]) -> Iterator[None]:
        engine = self.databases[0].engine
        event.listen(engine, "before_cursor_execute", stop)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", stop)


@pytest.fixture
def race(server: PostgresServer, database_url: str) -> Iterator[Race]:
    race = Race(server, database_url)
    assert race.first.lease(LEASE, ME, 0.0, 1e9)
    yield race
    race.close()


def test_a_feed_that_is_removed_while_a_result_is_stored_takes_it_along(race: Race) -> None:
    race.first.add_feed(URL, 1.0)
    race.first.record_check(ME, FEED, check(article("a")))
    one, two = race.run(
        "INSERT INTO results",
        lambda: race.first.record_result(ME, article("a").id, "h1", summary()),
        lambda: race.second.remove_feed(FEED),
    )
    assert (one.result(), two.result(), race.first.feeds()) == (True, None, ())
    with race.databases[0].read() as connection:
        assert connection.execute(select(results)).all() == []


def test_a_feed_that_is_removed_while_its_check_is_stored_waits_and_takes_all_along(race: Race) -> None:
    race.first.add_feed(URL, 1.0)
    one, two = race.run(
        "INSERT INTO articles", lambda: race.first.record_check(ME, FEED, check(article("a"))), lambda: race.second.remove_feed(FEED)
    )
    assert (one.result(), two.result(), race.first.feeds(), race.first.counts()["pending"]) == (None, None, (), 0)


def test_a_check_that_comes_while_its_feed_is_removed_finds_no_feed(race: Race) -> None:
    race.first.add_feed(URL, 1.0)
    one, two = race.run(
        "DELETE FROM feeds", lambda: race.first.remove_feed(FEED), lambda: race.second.record_check(ME, FEED, check(article("a")))
    )
    assert one.result() is None
    assert isinstance(two.exception(), NotFound)


def test_a_feed_that_is_revived_while_its_last_check_fails_is_not_paused_again(race: Race) -> None:
    with_articles(race.first, article("a"))
    race.first.sync_configured(ME, [], 2.0)
    one, two = race.run("UPDATE feeds", lambda: race.first.record_check(ME, FEED, check()), lambda: race.second.add_feed(URL, 3.0))
    assert one.result() is None
    assert getattr(two.result(), "state", None) == "ok"
    assert race.first.feed(FEED).origin == "api"


def test_a_feed_that_is_added_while_the_configuration_adds_it_belongs_to_the_configuration(race: Race) -> None:
    entries = [FeedEntry(url=OTHER), FeedEntry(url=URL, title="Own")]
    one, two = race.run("INSERT INTO feeds", lambda: race.first.add_feed(URL, 1.0), lambda: race.second.sync_configured(ME, entries, 2.0))
    assert (one.exception(), two.exception()) == (None, None) or "on the list already" in str(one.exception())
    assert {feed.url: feed.origin for feed in race.first.feeds()} == {URL: "config", OTHER: "config"}


def test_the_successor_waits_until_the_write_of_the_old_holder_is_done_and_later_ones_are_refused(race: Race) -> None:
    race.first.add_feed(URL, 1.0)
    one, two = race.run(
        "INSERT INTO articles",
        lambda: race.first.record_check(ME, FEED, check(article("a"))),
        lambda: race.second.lease(LEASE, "successor", 2e9, 10.0),
    )
    assert (one.result(), two.result(), race.waited) == (None, True, True)
    with pytest.raises(LeaseLost):
        race.first.record_check(ME, FEED, check(article("b")))


def test_two_that_take_a_free_lease_get_one_between_them(race: Race) -> None:
    first, second = race.databases
    one, two = race.run(
        "INSERT INTO leases",
        lambda: leases.acquire(first, "other", "a", 1.0, 10.0),
        lambda: leases.acquire(second, "other", "b", 1.0, 10.0),
    )
    assert {one.result(), two.result()} == {True, False}


def test_two_that_take_an_expired_lease_get_one_between_them(race: Race) -> None:
    first, second = race.databases
    assert leases.acquire(first, "other", "dead", 1.0, 10.0)
    one, two = race.run(
        "UPDATE leases",
        lambda: leases.acquire(first, "other", "a", 20.0, 10.0),
        lambda: leases.acquire(second, "other", "b", 20.0, 10.0),
    )
    assert (one.result(), two.result()) == (True, False)


def test_of_two_people_who_revive_a_feed_the_second_is_told_that_it_is_there(race: Race) -> None:
    with_articles(race.first)
    race.first.sync_configured(ME, [], 2.0)
    one, two = race.run("UPDATE feeds", lambda: race.first.add_feed(URL, 3.0), lambda: race.second.add_feed(URL, 3.0))
    assert one.exception() is None
    assert isinstance(two.exception(), Conflict)


def test_one_shard_evicts_at_a_time(race: Race) -> None:
    first, second = (AnswerStore(database) for database in race.databases)
    one, two = race.run("DELETE FROM answers", lambda: first.evict(1_000, older_than=0), lambda: second.evict(1_000, older_than=0))
    assert (one.result(), two.result(), race.waited) == (0, 0, True)
