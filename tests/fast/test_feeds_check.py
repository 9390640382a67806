"""One check of one feed against a real store: what is stored, what is asked for again, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.errors import FetchError
from serve_app.feeds.check import FeedChecker
from serve_app.feeds.decide import article_id
from serve_app.feeds.fetch import Fetcher
from serve_app.messages_feeds import ArticleQuery, Feed
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedEntry
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from serve_app.store.records import FeedCheck, Move
from tests.fast.fakes_feeds import Clock, FakeFeed, FakeFeedServer, FakeFetcher, settings_for

URL = "https://feed.test/rss"
FEED, ME = feed_id(URL), "me"


@pytest.fixture
def store(database: Database) -> ArticleStore:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    store.sync_configured(ME, [FeedEntry(url=URL)], 0.0)
    return store


class Checks:
    """A checker with its fakes; `check` checks the feed once and gives its new state."""

    def __init__(self, store: ArticleStore) -> None:
        self.clock, self.fetcher, self.store, self.metrics = Clock(1000.0), FakeFetcher(), store, Metrics()
        self.checker = FeedChecker(store, self.fetcher, self.metrics, ME, self.clock, jitter=lambda: 0.0)

    async def check(self) -> Feed:
        await self.checker.check(self.store.feed(FEED), settings_for(URL))
        return self.store.feed(FEED)

    def guids(self) -> list[str]:
        return sorted(article.guid for article in self.store.query(ArticleQuery()).articles)


async def test_new_entries_are_stored_and_an_unchanged_feed_is_not_read_again(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.fetcher.publish(URL).entry("a").entry("b")
    feed = await checks.check()
    assert (feed.state, feed.title, feed.num_articles, feed.next_check_at) == ("ok", "A feed", (("pending", 2),), 4600.0)
    again = await checks.check()
    assert again == replace(feed, last_status=304)
    assert checks.fetcher.asked == [(URL, None), (URL, feed.etag)]
    checks.fetcher.publish(URL).entry("c").entry("a", text="another text than it had before")
    await checks.check()
    assert checks.guids() == ["a", "b", "c"]


async def test_what_a_rule_blocks_is_no_work_until_a_person_asks_for_it_and_newer_rules_leave_it_alone(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.fetcher.publish(URL).entry("a", "Sponsored: a").entry("b", "About b")
    await checks.checker.check(store.feed(FEED), settings_for(URL, block=("title=^sponsored",)))
    blocked, taken = (store.article(article_id(FEED, guid)) for guid in "ab")
    assert (blocked.state, blocked.reason) == ("skipped", "blocked by the rule title=^sponsored")
    assert [article.guid for article in store.pending_articles(1000.0, 10)] == ["b"]
    store.retry_article(blocked.id, 1000.0)
    checks.fetcher.publish(URL).entry("c", "About c")
    await checks.checker.check(store.feed(FEED), settings_for(URL, block=("title=.",)))
    assert [article.guid for article in store.pending_articles(1000.0, 10)] == ["a", "b"]
    assert store.article(taken.id).state == "pending"
    assert store.article(article_id(FEED, "c")).reason == "blocked by the rule title=."


async def test_a_crash_before_the_commit_loses_nothing(store: ArticleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Checks(store)
    checks.fetcher.publish(URL).entry("a")
    with monkeypatch.context() as patch:
        patch.setattr(store, "record_check", lambda *_: (_ for _ in ()).throw(MemoryError()))
        feed = await checks.check()
    assert (feed.etag, feed.state, feed.last_error) == (None, "failing", "internal error (MemoryError); the log has the cause")
    await checks.check()
    assert checks.fetcher.asked == [(URL, None), (URL, None)]
    assert checks.guids() == ["a"]


async def test_a_failing_feed_shows_its_reason_backs_off_and_recovers(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.fetcher.fail(URL, FetchError("the name feed.test cannot be resolved"))
    waits = []
    for _ in range(7):
        feed = await checks.check()
        waits.append(feed.next_check_at - checks.clock())
    assert waits == [3600, 7200, 14_400, 28_800, 57_600, 86_400, 86_400]
    assert (feed.state, feed.num_errors, feed.last_error) == ("failing", 7, "the name feed.test cannot be resolved")
    checks.fetcher.publish(URL).entry("a")
    feed = await checks.check()
    assert (feed.state, feed.num_errors, feed.last_error, feed.next_check_at) == ("ok", 0, None, 4600.0)


async def test_a_server_that_asks_for_a_pause_gets_it_and_a_gone_feed_is_left_alone(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.fetcher.fail(URL, FetchError("less often", retry_after_s=50_000.0, http_status=429))
    feed = await checks.check()
    assert (feed.state, feed.last_status, feed.next_check_at) == ("failing", 429, 51_000.0)
    checks.fetcher.fail(URL, FetchError("gone", http_status=410))
    assert ((await checks.check()).state, store.due_feeds(1e12)) == ("gone", ())


async def test_all_feeds_of_a_host_that_asks_for_a_pause_get_it(store: ArticleStore) -> None:
    checks = Checks(store)
    same, moved, other = "https://feed.test/b", "https://elsewhere.test/a", "https://other.test/a"
    for url in (same, moved, other):
        store.add_feed(url, 1.0)
    store.record_check(ME, feed_id(moved), FeedCheck(1.0, 200, 1.0, move=Move("https://feed.test/c")))
    checks.fetcher.fail(URL, FetchError("busy", retry_after_s=500.0, http_status=503, held_host="feed.test"))
    await checks.check()
    assert {feed.url: feed.next_check_at for feed in store.feeds()} == {URL: 4600.0, same: 1500.0, moved: 1500.0, other: 1.0}


async def test_over_http_a_feed_that_moved_is_asked_at_its_new_place_and_found_again_when_that_is_lost(store: ArticleStore) -> None:
    async with FakeFeedServer() as server:
        server.entry("a")
        old = server.redirect("/old", server.url(), 301)
        store.add_feed(old, 1.0)
        clock, settings = Clock(), settings_for()
        checker = FeedChecker(store, Fetcher(settings, gap_s=0.0), Metrics(), ME, clock)
        for day in range(5):
            if day == 1:
                server.redirect("/old", "/moved-while-under-repair", 301)
                server.serve("/moved-while-under-repair", b"<html>back soon")
            if day == 2:
                server.redirect("/old", server.url(), 308)
            await checker.check(store.feed(feed_id(old)), settings)
            clock.pass_s(86_400)
        feed = store.feed(feed_id(old))
        assert (feed.url, feed.moved_to, feed.num_articles) == (old, server.url(), (("pending", 1),))
        await checker.check(feed, settings)
        assert server.requests[-1].path == "/feed"
        server.serve("/feed", b"", status=404)
        for _ in range(3):
            await checker.check(store.feed(feed_id(old)), settings)
        assert store.feed(feed_id(old)).moved_to is None


async def test_a_feed_that_leads_to_another_one_of_the_list_says_so(store: ArticleStore) -> None:
    async with FakeFeedServer() as server:
        server.entry("a")
        old = server.redirect("/old", server.url(), 301)
        for url in (old, server.url()):
            store.add_feed(url, 1.0)
        settings = settings_for()
        await FeedChecker(store, Fetcher(settings, gap_s=0.0), Metrics(), ME, Clock()).check(store.feed(feed_id(old)), settings)
        assert store.feed(feed_id(old)).duplicate_of == feed_id(server.url())


async def test_over_http_a_gone_feed_is_left_alone_until_a_person_asks_for_it(store: ArticleStore) -> None:
    async with FakeFeedServer() as server:
        url = server.serve("/x", b"", status=410)
        store.add_feed(url, 1.0)
        settings = settings_for()
        checker = FeedChecker(store, Fetcher(settings, gap_s=0.0), Metrics(), ME, Clock())
        await checker.check(store.feed(feed_id(url)), settings)
        assert (store.feed(feed_id(url)).state, url in [feed.url for feed in store.due_feeds(1e12)]) == ("gone", False)
        server.serve("/x", FakeFeed().entry("a").body())
        await checker.check(store.refresh(feed_id(url), 5.0), settings)
        assert store.feed(feed_id(url)).state == "ok"


async def test_a_304_keeps_the_rhythm_that_the_document_had(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.clock.now = 1_704_200_000.0  # a day after the entries of a FakeFeed, which are an hour apart
    checks.fetcher.publish(URL).entry("a").entry("b")
    first = await checks.check()
    assert (first.entry_gap_s, first.newest_at) == (3600.0, 1_704_070_800.0)
    waits = [first.next_check_at - checks.clock()]
    checks.clock.pass_s(40_000)
    second = await checks.check()
    waits.append(second.next_check_at - checks.clock())
    assert (second.last_status, second.entry_gap_s) == (304, 3600.0)
    assert waits == [12_920.0, 16_920.0], "a tenth of its silence"


async def test_an_article_whose_guid_changed_keeps_its_summary(store: ArticleStore) -> None:
    checks = Checks(store)
    feed = checks.fetcher.publish(URL).entry("old")
    await checks.check()
    (before,) = store.query(ArticleQuery()).articles
    feed.items["new"] = feed.items.pop("old")
    await checks.check()
    (after,) = store.query(ArticleQuery()).articles
    assert (after.id, after.guid, after.link) == (before.id, "new", "https://feed.test/new")
    feed.entry("old", "Another one", "With the guid that the first one had before it got its new one.")
    await checks.check()
    assert checks.guids() == ["new", "old"]


async def test_a_check_that_is_given_up_is_due_again_and_one_that_was_killed_soon(store: ArticleStore) -> None:
    checks = Checks(store)
    before = store.feed(FEED)
    checks.fetcher.hang(URL)
    task = asyncio.create_task(checks.check())
    await checks.fetcher.arrived.wait()
    killed = store.feed(FEED)
    assert (killed.last_check_at, killed.next_check_at) == (1000.0, 1000.0 + 2 * settings_for(URL).total_timeout_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert store.feed(FEED) == before


async def test_a_refresh_during_a_check_outlives_its_end(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.fetcher.hang(URL)
    task = asyncio.create_task(checks.check())
    await checks.fetcher.arrived.wait()
    store.refresh(FEED, 1001.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert store.feed(FEED).next_check_at == 1001.0


async def test_no_log_shows_a_password(store: ArticleStore, caplog: pytest.LogCaptureFixture) -> None:
    url = "https://ann:secret@feed.test/rss"
    checks = Checks(store)
    for error in (FetchError("gone"), RuntimeError("odd")):
        checks.fetcher.fail(url, error)
        await checks.checker.check(store.add_feed(url, 1.0), settings_for(url))
        store.remove_feed(feed_id(url))
    assert "https://***@feed.test/rss" in caplog.text
    assert "secret" not in caplog.text


async def test_of_a_feed_without_end_only_the_first_entries_are_taken_and_the_log_says_so(
    store: ArticleStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.feeds.parse.MAX_ENTRIES", 2)
    checks = Checks(store)
    checks.fetcher.publish(URL).entry("a").entry("b").entry("c")
    await checks.check()
    assert checks.guids() == ["b", "c"]
    assert "its last 1 entries are left out" in caplog.text


async def test_edits_that_had_to_wait_are_not_lost_to_a_304(store: ArticleStore) -> None:
    checks = Checks(store)
    feed = checks.fetcher.publish(URL).entry("a").entry("b").entry("c")
    await checks.check()
    for guid in "abc":
        feed.entry(guid, text=f"the text of {guid} was edited")
    waiting = []
    for _ in range(3):
        await checks.checker.check(store.feed(FEED), settings_for(URL, max_new_per_check=2))
        waiting.append([guid for guid in "abc" if "edited" not in store.article(article_id(FEED, guid)).text])
    assert waiting == [["a"], [], []]
    assert [etag is None for _url, etag in checks.fetcher.asked] == [True, False, True, False]


async def test_a_feed_removed_while_it_was_checked_is_no_trouble(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.fetcher.publish(URL).entry("a")
    feed = store.feed(FEED)
    store.sync_configured(ME, [], 1.0)
    store.remove_feed(FEED)
    await checks.checker.check(feed, settings_for(URL))
    assert store.feeds() == ()


async def test_a_replica_without_the_lease_asks_nobody(store: ArticleStore) -> None:
    checks = Checks(store)
    checks.fetcher.publish(URL).entry("a")
    store.release(LEASE, ME)
    with pytest.raises(LeaseLost):
        await checks.check()
    assert checks.fetcher.asked == []


async def test_over_http_a_web_page_is_named_and_a_feed_comes_with_its_articles(store: ArticleStore) -> None:
    async with FakeFeedServer() as server:
        server.entry("a")
        page = server.serve(
            "/", b'<html><link rel="alternate" type="application/rss+xml" href="/feed"></html>', {"Content-Type": "text/html"}
        )
        settings = settings_for()
        checker = FeedChecker(store, Fetcher(settings, gap_s=0.0), Metrics(), ME, Clock())
        for url in (page, server.url()):
            await checker.check(store.add_feed(url, 1.0), settings)
        assert store.feed(feed_id(page)).last_error == f"this is a web page, not a feed; use its feed {server.url()}"
        assert store.feed(feed_id(server.url())).num_articles == (("pending", 1),)
