"""The article store: what belongs together is stored together, and nobody writes without the lease."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from serve_app.errors import Conflict, NotFound
from serve_app.messages_feeds import ArticleQuery, Feed
from serve_app.settings_feeds import FeedEntry
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from serve_app.store.records import FeedFailure, KnownArticle, Move, Rename, Rhythm
from tests.contract_store.makers import FEED, ME, OTHER, URL, article, check, summary, with_articles


@pytest.fixture
def store(database: Database) -> ArticleStore:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    return store


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
        "a": KnownArticle("h1", "pending", 10.0, None, article("a").id, "https://x.test/"),
        "old": KnownArticle("h1", "skipped", 10.0, "older", old.id, "https://x.test/"),
    }
    assert set(store.known(FEED, ["a"], ["h1"])) == {"a", "old", "short"}
    assert store.taken([article("a").id, "unseen"]) == {article("a").id}
    store.record_check(ME, FEED, check(article("a", text="seen again by another")))
    assert store.article(article("a").id) == article("a")


def test_an_article_that_is_found_under_another_guid_keeps_its_id_and_its_summary(store: ArticleStore) -> None:
    with_articles(store, article("a"))
    assert store.record_result(ME, article("a").id, "h1", summary())
    renamed = (Rename(article("a").id, "b", "https://x.test/b"),)
    store.record_check(
        ME, FEED, replace(check(article("c")), renamed=renamed, rhythm=Rhythm(60.0, "h0", 5.0, 9.0), move=Move("https://y.test/"))
    )
    found = store.article(article("a").id)
    assert (found.guid, found.link, found.state, found.summary) == ("b", "https://x.test/b", "done", summary())
    feed = store.feed(FEED)
    assert (feed.asked_wait_s, feed.skips, feed.entry_gap_s, feed.newest_at, feed.address) == (60.0, "h0", 5.0, 9.0, "https://y.test/")
    assert store.addresses() == {FEED: (URL, "https://y.test/")}
    store.record_check(ME, FEED, check())
    assert store.feed(FEED) == replace(feed, num_articles=store.feed(FEED).num_articles)
    store.record_failure(ME, FEED, FeedFailure(3.0, "not there any more", 4.0, forget_move=True))
    assert store.feed(FEED).address == URL


def test_the_feeds_of_a_host_that_asked_for_a_pause_wait_for_it(store: ArticleStore) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL), FeedEntry(url=OTHER)], 1.0)
    store.hold(ME, [FEED], 50.0)
    assert [feed.url for feed in store.due_feeds(49.0)] == [OTHER]
    store.hold(ME, [FEED], 20.0)
    assert store.feed(FEED).next_check_at == 50.0


def test_an_article_with_the_text_of_an_earlier_one_of_another_feed_says_so(store: ArticleStore) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL), FeedEntry(url=OTHER)], 1.0)
    there = replace(article("there", first_seen_at=9.0), feed_id=feed_id(OTHER))
    store.record_check(ME, FEED, check(article("a"), article("b", text_hash="h2")))
    store.record_check(ME, feed_id(OTHER), check(there))
    found = {entry.guid: entry.duplicate_of for entry in store.query(ArticleQuery()).articles}
    assert found == {"a": there.id, "b": None, "there": None}


def test_a_crash_between_articles_and_validators_leaves_neither(store: ArticleStore) -> None:
    store.add_feed(URL, 1.0)
    torn = check(article("a"), replace(article("b"), title=None))  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"(?i)not.null"):
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
        lambda: store.hold(ME, [FEED], 3.0),
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


def test_an_unknown_article_is_refused(store: ArticleStore) -> None:
    with pytest.raises(NotFound):
        store.article("nope")
    with pytest.raises(NotFound):
        store.retry_article("nope", 1.0)
