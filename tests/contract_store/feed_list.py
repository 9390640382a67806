"""The feeds' list: the configuration and people change it, each within what the other may."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.errors import BadRequest, Conflict, NotFound
from serve_app.messages_feeds import Feed
from serve_app.settings_feeds import FeedEntry, FeedOptions
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.records import FeedFailure
from tests.contract_store.makers import FEED, ME, OTHER, URL, article, summary, with_articles


@pytest.fixture
def store(database: Database) -> ArticleStore:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    return store


def test_configured_feeds_are_added_paused_when_they_leave_and_revived_when_they_come_back(store: ArticleStore) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL, title="Own title"), FeedEntry(url="sample:")], 1.0)
    store.add_feed(OTHER, 2.0)
    new = Feed(FEED, URL, "config", "new", "Own title", 1.0, 1.0, options={"title": "Own title"})
    assert store.feed(FEED) == new
    store.sync_configured(ME, [], 3.0)
    assert {feed.url: feed.state for feed in store.feeds()} == {URL: "paused", "sample:": "paused", OTHER: "new"}
    assert store.feed(FEED).paused_by == "config"
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


def test_the_configuration_gives_a_feed_options_and_takes_them_back(store: ArticleStore) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL, full_text=False)], 1.0)
    assert (store.feed(FEED).options, store.options_of(FEED)) == ({"full_text": False}, FeedOptions(full_text=False))
    with pytest.raises(Conflict, match="change its options there"):
        store.change_feed(FEED, {"full_text": True})
    store.sync_configured(ME, [FeedEntry(url=URL)], 2.0)
    assert (store.feed(FEED).options, store.options_of(FEED)) == ({}, FeedOptions())
    assert store.options_of("nope") == FeedOptions()


def test_a_feed_that_was_added_changes_what_is_named(store: ArticleStore) -> None:
    store.add_feed(URL, 1.0, {"title": "Given title", "full_text": True})
    assert store.change_feed(FEED, {}) == store.feed(FEED)
    assert (store.feed(FEED).title, store.feed(FEED).options) == ("Given title", {"title": "Given title", "full_text": True})
    assert store.change_feed(FEED, {"title": "Other title", "full_text": None}).options == {"title": "Other title"}
    assert store.feed(FEED).title == "Other title"
    with pytest.raises(NotFound):
        store.change_feed("nope", {"title": "Title"})


def test_what_a_person_paused_stays_so_until_a_person_lets_it_go_on(store: ArticleStore) -> None:
    entry = FeedEntry(url=URL)
    with_articles(store, article("a"))
    checked = store.feed(FEED)
    paused = store.change_feed(FEED, {}, True)
    assert paused == replace(checked, state="paused", paused_by="person") == store.change_feed(FEED, {}, True)
    assert (store.due_feeds(1e6), store.pending_articles(1e6, 9)) == ((), ())
    with pytest.raises(Conflict, match="paused by a person; let it go on with `frugal-serve feeds resume`"):
        store.refresh(FEED, 3.0)
    with pytest.raises(Conflict, match=f"on the list already, as {FEED}, and paused by a person"):
        store.add_feed(URL, 3.0)
    with pytest.raises(Conflict, match="the configuration names this feed"):
        store.remove_feed(FEED)
    store.sync_configured(ME, [entry], 3.0)
    assert store.feed(FEED) == paused
    assert store.change_feed(FEED, {}, False) == checked == store.change_feed(FEED, {}, False)


def test_a_person_and_the_configuration_do_not_undo_each_others_pauses(store: ArticleStore) -> None:
    entry = FeedEntry(url=URL)
    with_articles(store)
    store.change_feed(FEED, {}, True)
    store.sync_configured(ME, [], 3.0)
    assert store.feed(FEED).paused_by == "both"
    store.sync_configured(ME, [entry], 4.0)
    assert (store.feed(FEED).state, store.feed(FEED).paused_by) == ("paused", "person")
    store.sync_configured(ME, [], 5.0)
    resumed = store.change_feed(FEED, {}, False)
    assert (resumed.state, resumed.paused_by) == ("paused", "config")
    with pytest.raises(Conflict, match="left the configuration; put it back there"):
        store.change_feed(FEED, {}, False)
    assert store.change_feed(FEED, {}, True).paused_by == "both"
    assert (store.add_feed(URL, 6.0).state, store.feed(FEED).paused_by) == ("ok", None)


def test_a_feed_that_is_gone_is_not_woken_by_letting_it_go_on(store: ArticleStore) -> None:
    store.add_feed(URL, 1.0)
    store.record_failure(ME, FEED, FeedFailure(2.0, "gone for good (410)", 9_000.0, 410, is_gone=True))
    assert store.change_feed(FEED, {}, False).state == "gone"


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
