"""Many writers at once: each write is whole, none is lost, nobody waits for ever, and people only get errors that are meant for them."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable

from sqlalchemy import select

from serve_app.errors import Conflict, NotFound
from serve_app.settings_feeds import FeedEntry
from serve_app.store import leases
from serve_app.store.answers import AnswerStore
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from serve_app.store.ledger import Ledger, LedgerRow
from serve_app.store.schema import articles, feeds, results
from tests.contract_store.answers import stored
from tests.contract_store.makers import FEED, ME, OTHER, URL, article, check, summary

ROUNDS = 12


def together(*works: Callable[[], object]) -> list[object]:
    """Run these in threads that begin at the same moment; what each gave or raised."""
    start, ended = threading.Barrier(len(works)), dict[int, object]()

    def run(number: int, work: Callable[[], object]) -> None:
        start.wait(10)
        try:
            ended[number] = work()
        except Exception as error:
            ended[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [ended[number] for number in range(len(works))]


def repeated(work: Callable[[int], object], *allowed: type[Exception]) -> Callable[[], object]:
    """`work` ROUNDS times; the errors that are allowed count as done."""

    def run() -> int:
        for number in range(ROUNDS):
            try:
                work(number)
            except allowed:
                continue
        return ROUNDS

    return run


def adding(ledger: Ledger, rows: list[LedgerRow]) -> Callable[[], object]:
    return repeated(lambda _number: ledger.add(rows))


def test_of_many_that_want_a_lease_one_gets_it(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(6)]
    for now in (100.0, 200.0, 300.0):
        got = together(*(functools.partial(leases.acquire, db, "feeds", f"{n}", now, 50.0) for n, db in enumerate(databases)))
        assert Counter(got) == {True: 1, False: 5}
    for database in databases:
        database.close()


def test_the_books_of_several_replicas_add_up_in_whatever_order_they_come(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    rows = [LedgerRow(3600, "tiny", f"feed{number}", "hit", "stop", 1, 2, 3, 0.5, 0.5, 0.5, 0.5, 0.5) for number in range(20)]
    orders = (rows, rows[::-1], rows[10:] + rows[:10], rows[::2] + rows[1::2])
    works = [adding(Ledger(database), order) for database, order in zip(databases, orders, strict=True)]
    assert together(*works) == [ROUNDS] * 4
    assert {row.requests for row in Ledger(databases[0]).rows()} == {4 * ROUNDS}
    assert len(Ledger(databases[0]).rows()) == 20
    for database in databases:
        database.close()


def test_shards_that_store_and_evict_at_once_keep_within_the_limit(database: Database) -> None:
    store = AnswerStore(database)
    store.put(stored(0))
    limit = store.totals().size_bytes * 10

    def put(first: int) -> Callable[[], object]:
        return repeated(lambda number: store.put(stored(first + number, created_at=1000.0 + number)))

    evict = repeated(lambda _number: store.evict(limit, older_than=0))
    assert together(put(100), put(200), put(100), evict, evict, evict) == [ROUNDS] * 6
    store.evict(limit, older_than=0)
    assert 9 <= store.totals().entries <= 10


def test_people_change_the_list_while_the_loop_writes_and_nothing_is_left_half_done(database: Database) -> None:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    someone = (NotFound, Conflict)

    def check_and_summarise(number: int) -> None:
        one = article(f"{number}")
        store.record_check(ME, FEED, check(one, article("x"), article("y")))
        store.record_result(ME, one.id, "h1", summary())
        store.record_result(ME, article("x").id, "h1", summary())

    both, one = [FeedEntry(url=URL), FeedEntry(url=OTHER)], [FeedEntry(url=OTHER)]
    ended = together(
        repeated(lambda _number: store.add_feed(URL, 1.0), *someone),
        repeated(lambda _number: store.remove_feed(FEED), *someone),
        repeated(lambda _number: store.refresh(FEED, 2.0), *someone),
        repeated(lambda _number: store.retry_article(article("x").id, 3.0), *someone),
        repeated(check_and_summarise, *someone),
        repeated(lambda number: store.sync_configured(ME, both if number % 2 else one, 4.0), *someone),
        repeated(lambda number: store.lease(LEASE, ME, 5.0 + number, 1e9)),
        repeated(lambda _number: store.mark_checking("an old one", FEED, 1.0, 2.0), LeaseLost),
    )
    assert ended == [ROUNDS] * 8
    store.sync_configured(ME, both, 9.0)
    assert {feed.url: feed.state for feed in store.feeds()}[OTHER] == "new"
    with database.read() as connection:
        known = set(connection.scalars(select(feeds.c.id)))
        of_articles = set(connection.scalars(select(articles.c.feed_id)))
        unknown = set(connection.scalars(select(results.c.article_id))) - set(connection.scalars(select(articles.c.id)))
    assert known == {FEED, feed_id(OTHER)}
    assert (of_articles <= known, unknown) == (True, set())
