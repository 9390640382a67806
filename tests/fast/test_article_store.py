"""The article store: what belongs together is stored together, nobody writes without the lease, and pages visit each article once."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from serve_app.errors import BadRequest, Conflict, NotFound
from serve_app.feeds.decide import article_id
from serve_app.messages import Article, ArticleQuery, Feed, Summary
from serve_app.settings import FeedEntry
from serve_app.store.article_rows import cursor_behind, read_cursor
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from serve_app.store.records import FeedCheck, FeedFailure, KnownArticle

URL, OTHER = "https://feed.test/rss", "https://other.test/rss"
FEED, ME = feed_id(URL), "me"


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[ArticleStore]:
    database = Database(f"sqlite:///{tmp_path}/frugal.db")
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    yield store
    database.close()


def article(guid: str, **values: object) -> Article:
    base = Article(article_id(FEED, guid), FEED, guid, "https://x.test/", f"About {guid}", "Ann", None, 10.0, 10.0, "text", "h1", "pending")
    return replace(base, **values)  # type: ignore[arg-type]


def check(*new: Article, changed: tuple[Article, ...] = (), at: float = 20.0) -> FeedCheck:
    return FeedCheck(at, 200, at + 3600, '"tag"', "then", "Feed title", new, changed)


def summary(text: str = "A summary.", text_hash: str = "h1") -> Summary:
    return Summary(text, "model", "1", "{title}{text}", text_hash, "miss", 50, 9, 2.0, 0.002, 30.0)


def with_articles(store: ArticleStore, *articles: Article) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL)], 1.0)
    store.record_check(ME, FEED, check(*articles))


@contextlib.contextmanager
def plans(store: ArticleStore) -> Iterator[list[str]]:
    """What SQLite says it will do for each SELECT."""
    seen: list[str] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            seen.append("".join(f"{row[3]};" for row in rows))

    engine = store._database.engine
    event.listen(engine, "before_cursor_execute", explain)
    yield seen
    event.remove(engine, "before_cursor_execute", explain)


def test_configured_feeds_are_added_paused_when_they_leave_and_revived_when_they_come_back(store: ArticleStore) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL, title="Own title"), FeedEntry(url="sample:")], 1.0)
    store.add_feed(OTHER, 2.0)
    new = Feed(FEED, URL, "config", "new", "Own title", 1.0, 1.0)
    assert store.feed(FEED) == new
    store.sync_configured(ME, [], 3.0)
    assert {feed.url: feed.state for feed in store.feeds()} == {URL: "paused", "sample:": "paused", OTHER: "new"}
    assert [feed.url for feed in store.due_feeds(99.0)] == [OTHER]
    store.sync_configured(ME, [FeedEntry(url=URL, title="Own title")], 4.0)
    assert store.feed(FEED) == replace(new, next_check_at=4.0)
    store.sync_configured(ME, [FeedEntry(url=URL, title="Own title")], 5.0)
    assert store.feed(FEED) == replace(new, next_check_at=4.0)


def test_a_feed_is_added_once_and_found_by_its_id(store: ArticleStore) -> None:
    feed = store.add_feed(URL, 5.0)
    assert feed == Feed(FEED, URL, "api", "new", "", 5.0, 5.0) == store.feed(FEED)
    with pytest.raises(Conflict, match=FEED):
        store.add_feed(URL, 6.0)
    with pytest.raises(BadRequest, match="unknown scheme 'file'"):
        store.add_feed("file:///etc/hostname", 6.0)
    with pytest.raises(NotFound):
        store.feed("nope")


def test_a_feed_of_the_configuration_cannot_be_removed_but_others_go_with_their_articles(store: ArticleStore) -> None:
    with_articles(store, article("a"))
    store.record_result(ME, article("a").id, "h1", summary())
    with pytest.raises(Conflict, match="configuration names this feed"):
        store.remove_feed(FEED)
    store.sync_configured(ME, [], 2.0)
    store.remove_feed(FEED)
    assert (store.feeds(), store.counts()) == ((), {"pending": 0, "done": 0, "failed": 0, "skipped": 0})


def test_refreshing_makes_a_feed_due_and_gives_a_gone_one_another_chance(store: ArticleStore) -> None:
    store.add_feed(URL, 1.0)
    store.record_failure(ME, FEED, FeedFailure(2.0, "gone for good (410)", 9_000.0, 410, is_gone=True))
    assert store.due_feeds(10_000.0) == ()
    assert store.refresh(FEED, 10.0).state == "failing"
    assert [feed.id for feed in store.due_feeds(10.0)] == [FEED]
    with pytest.raises(NotFound):
        store.refresh("nope", 10.0)


def test_the_next_check_is_stored_before_the_request(store: ArticleStore) -> None:
    store.add_feed(URL, 1.0)
    store.mark_checking(ME, FEED, 2.0, 3_602.0)
    assert store.due_feeds(3_601.0) == ()
    assert (store.feed(FEED).last_check_at, store.feed(FEED).last_success_at) == (2.0, None)


def test_a_check_is_stored_with_its_articles_and_validators(store: ArticleStore) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL)], 1.0)
    store.record_failure(ME, FEED, FeedFailure(2.0, "the name cannot be resolved", 3.0))
    assert (store.feed(FEED).state, store.feed(FEED).num_errors, store.feed(FEED).last_error) == (
        "failing",
        1,
        "the name cannot be resolved",
    )
    old, short = article("old", state="skipped", reason="older"), article("short", state="skipped", reason="only 2 words")
    store.record_check(ME, FEED, check(article("a"), old, short))
    assert store.feed(FEED) == Feed(
        FEED, URL, "config", "ok", "Feed title", 1.0, 3_620.0, '"tag"', "then", 200, None, 0, None, 20.0, (("pending", 1), ("skipped", 2))
    )
    assert store.article(article("a").id) == article("a")
    assert store.known(FEED, ["a", "old", "unseen"]) == {
        "a": KnownArticle("h1", "pending", 10.0),
        "old": KnownArticle("h1", "skipped", 10.0, "older"),
    }
    store.record_check(ME, FEED, check(article("a", text="seen again by another")))
    assert store.article(article("a").id) == article("a")


def test_a_crash_between_articles_and_validators_leaves_neither(store: ArticleStore) -> None:
    store.add_feed(URL, 1.0)
    torn = check(article("a"), replace(article("b"), title=None))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="NOT NULL"):
        store.record_check(ME, FEED, torn)
    assert store.feed(FEED) == Feed(FEED, URL, "api", "new", "", 1.0, 1.0)
    assert store.query(ArticleQuery()).articles == ()


def test_a_changed_article_is_pending_again_and_its_old_result_is_not_shown(store: ArticleStore) -> None:
    with_articles(store, article("a"))
    assert store.record_result(ME, article("a").id, "h1", summary())
    assert store.article(article("a").id) == replace(article("a"), state="done", updated_at=30.0, summary=summary())
    changed = article("a", text="another text", text_hash="h2", updated_at=40.0, first_seen_at=99.0)
    store.record_check(ME, FEED, check(changed=(changed,)))
    assert store.article(article("a").id) == replace(changed, first_seen_at=10.0)
    assert not store.record_result(ME, article("a").id, "h1", summary("too late"))
    assert store.record_result(ME, article("a").id, "h2", summary("The new one.", "h2"))
    assert store.article(article("a").id).summary == summary("The new one.", "h2")


def test_pending_articles_come_oldest_first_and_failed_ones_when_their_time_has_come(store: ArticleStore) -> None:
    with_articles(store, article("b", published_at=5.0), article("a", published_at=4.0), article("c"), article("d", state="skipped"))
    ids = {guid: article(guid).id for guid in "abc"}
    assert [one.guid for one in store.pending_articles(50.0, 9)] == ["a", "b", "c"]
    assert [one.guid for one in store.pending_articles(50.0, 1, [ids["a"]])] == ["b"]
    store.record_article_failure(ME, ids["a"], "h1", "broke", 1, 60.0, 50.0)
    store.record_article_failure(ME, ids["b"], "h1", "broke", 5, None, 50.0)
    store.postpone(ME, ids["c"], "h1", "full", 70.0)
    assert store.pending_articles(59.0, 9) == ()
    assert [one.guid for one in store.pending_articles(60.0, 9)] == ["a"]
    assert [(one.guid, one.state, one.reason, one.attempts) for one in store.pending_articles(1e9, 9)] == [
        ("a", "failed", "broke", 1),
        ("c", "pending", "full", 0),
    ]
    with pytest.raises(Conflict, match="this article is pending"):
        store.retry_article(ids["c"], 80.0)
    again = store.retry_article(ids["b"], 80.0)
    assert (again.state, again.reason, again.attempts, again.updated_at) == ("pending", None, 5, 80.0)
    assert len(store.pending_articles(1e9, 9)) == 3
    store.sync_configured(ME, [], 90.0)
    assert store.pending_articles(1e9, 9) == ()
    assert store.counts() == {"pending": 2, "done": 0, "failed": 1, "skipped": 1}


def test_a_feed_removed_or_paused_while_it_was_checked_stays_so(store: ArticleStore) -> None:
    with pytest.raises(NotFound):
        store.record_check(ME, FEED, check(article("a")))
    with_articles(store)
    store.sync_configured(ME, [], 2.0)
    store.record_check(ME, FEED, check(article("a")))
    store.record_failure(ME, FEED, FeedFailure(3.0, "x", 4.0))
    assert store.feed(FEED).state == "paused"


def test_nothing_is_written_without_the_lease(store: ArticleStore) -> None:
    with_articles(store, article("a"))
    before = (store.feeds(), store.query(ArticleQuery()))
    store.release(LEASE, ME)
    assert store.lease(LEASE, "successor", 1.0, 10.0)
    writes: list[Callable[[], object]] = [
        lambda: store.sync_configured(ME, [FeedEntry(url=OTHER)], 2.0),
        lambda: store.mark_checking(ME, FEED, 2.0, 3.0),
        lambda: store.unmark_checking(ME, store.feed(FEED), 3.0),
        lambda: store.record_check(ME, FEED, check(article("b"))),
        lambda: store.record_failure(ME, FEED, FeedFailure(2.0, "x", 3.0)),
        lambda: store.record_result(ME, article("a").id, "h1", summary()),
        lambda: store.record_article_failure(ME, article("a").id, "h1", "x", 1, None, 2.0),
        lambda: store.postpone(ME, article("a").id, "h1", "x", 2.0),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert (store.feeds(), store.query(ArticleQuery())) == before


def test_a_list_has_no_texts_and_one_article_has(store: ArticleStore) -> None:
    with_articles(store, article("a"))
    assert store.query(ArticleQuery()).articles == (article("a", text=""),)
    assert store.query(ArticleQuery(text="text")).articles == (article("a", text=""),)
    assert store.article(article("a").id).text == "text"


CURSOR = cursor_behind(article("a"))


@pytest.mark.parametrize(
    ("read", "step"),
    [
        (lambda store: store.query(ArticleQuery()), "SCAN articles USING INDEX articles_shown_at;"),
        (lambda store: store.query(ArticleQuery(cursor=CURSOR)), "SEARCH articles USING INDEX articles_shown_at (<expr><?);"),
        (lambda store: store.pending_articles(50.0, 9), "SEARCH articles USING INDEX articles_state (state=? AND next_try_at=?);"),
        (lambda store: store.counts(), "SCAN articles USING COVERING INDEX articles_state;"),
        (lambda store: store.feeds(), "SCAN articles USING COVERING INDEX articles_feed_state;"),
    ],
    ids=["first page", "later page", "pending", "counts", "feeds"],
)
def test_what_is_read_often_goes_through_an_index(store: ArticleStore, read: Callable[[ArticleStore], object], step: str) -> None:
    for url in (URL, OTHER):
        store.add_feed(url, 1.0)
    with plans(store) as seen:
        read(store)
    assert step in "".join(seen)
    assert "articles_shown_at" not in step or "ORDER BY" not in "".join(seen), "nothing is left to sort"


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20])
def test_pages_over_equal_times_visit_each_article_once_newest_first(store: ArticleStore, limit: int) -> None:
    times = [None, 30.0, 10.0, 30.0, 30.0, 10.0, None, 0.1 + 0.2, 1700000000.123456]
    with_articles(store, *(article(str(number), published_at=at) for number, at in enumerate(times)))
    seen: list[Article] = []
    cursor = None
    while True:
        page = store.query(ArticleQuery(limit=limit, cursor=cursor))
        assert 0 < len(page.articles) <= limit
        seen += page.articles
        cursor = page.next_cursor
        if cursor is None:
            break
    keys = [(one.published_at if one.published_at is not None else one.first_seen_at, one.id) for one in seen]
    assert keys == sorted(keys, reverse=True)
    assert len({one.id for one in seen}) == len(seen) == len(times)


def test_lists_are_filtered_by_feed_state_time_and_text(store: ArticleStore) -> None:
    texts = {"a": "100% sure", "b": "100 percent", "c": "under_score", "d": "underXscore", "e": "Ärger in Köln", "f": "back\\slash"}
    with_articles(store, *(article(guid, text=text, published_at=float(ord(guid))) for guid, text in texts.items()))
    store.record_result(ME, article("b").id, "h1", summary("Zebra crossing."))

    def guids(**values: object) -> str:
        return "".join(one.guid for one in store.query(ArticleQuery(**values)).articles)  # type: ignore[arg-type]

    assert guids() == "fedcba"
    assert guids(text="100%") == "a"
    assert guids(text="UNDER_") == "c"
    assert guids(text="zebra") == guids(state="done") == "b"
    assert guids(text="ABOUT E") == guids(text="köln") == guids(text="ärger") == "e"
    assert guids(text="\\") == "f"
    assert guids(since=float(ord("e"))) == "fe"
    assert guids(feed_id="nope") == guids(text="'; drop table articles") == ""


@pytest.mark.parametrize(
    "cursor", ["", "x", "!!!!", "AAAA", "bnVsbA", "WzEsMl0", "W251bGwsImEiXQ", "WzFlOTk5LCJhIl0", "é", "Wy" * 5_000, "W3RydWUsImEiXQ"]
)
def test_a_cursor_that_is_not_ours_is_refused(store: ArticleStore, cursor: str) -> None:
    with pytest.raises(BadRequest) as caught:
        store.query(ArticleQuery(cursor=cursor))
    assert caught.value.param == "cursor"


@given(st.text())
def test_no_cursor_raises_anything_else(cursor: str) -> None:
    with contextlib.suppress(BadRequest):
        read_cursor(cursor)


def test_an_unknown_article_and_a_limit_of_nothing_are_refused(store: ArticleStore) -> None:
    with pytest.raises(NotFound):
        store.article("nope")
    with pytest.raises(NotFound):
        store.retry_article("nope", 1.0)
    with pytest.raises(BadRequest):
        store.query(ArticleQuery(limit=0))
