"""Pages to be read, categories and tags: stored with the check and the result that they belong to."""

from __future__ import annotations

from dataclasses import replace

from serve_app.settings_feeds import FeedEntry
from serve_app.store.article_pages import PageStore, WantedPage
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from tests.contract_store.makers import FEED, ME, URL, article, check, summary


def stores(database: Database) -> tuple[ArticleStore, PageStore]:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    store.sync_configured(ME, [FeedEntry(url=URL)], 1.0)
    return store, PageStore(database)


def test_an_article_is_not_summarised_before_its_page_is_read(database: Database) -> None:
    store, pages = stores(database)
    own = replace(article("a"), categories=("AI", "Ops"))
    store.record_check(ME, FEED, replace(check(own, article("b")), pages=frozenset([own.id])))
    assert [one.guid for one in store.pending_articles(50.0, 9)] == ["b"]
    assert pages.wanted(50.0, 9) == (WantedPage(own, URL),)
    pages.mark(ME, own.id, 1, 60.0)
    assert pages.wanted(59.0, 9) == ()
    assert [page.attempts for page in pages.wanted(60.0, 9)] == [1]
    assert pages.wanted(60.0, 9, [own.id]) == ()
    assert pages.decide(ME, own, "page", "the page")
    assert store.pending_articles(60.0, 9, [article("b").id])[0] == replace(own, text_source="page", page_text="the page")
    assert pages.wanted(60.0, 9) == ()


def test_another_text_of_the_feed_wants_its_page_again_and_an_old_page_is_not_stored(database: Database) -> None:
    store, pages = stores(database)
    old = article("a")
    store.record_check(ME, FEED, replace(check(old), pages=frozenset([old.id])))
    new = article("a", text="another", text_hash="h2")
    store.record_check(ME, FEED, replace(check(changed=(new,)), pages=frozenset([new.id])))
    assert not pages.decide(ME, old, "page", "of before")
    assert [page.article for page in pages.wanted(50.0, 9)] == [new]
    assert pages.decide(ME, new, "feed", why="no article", skip="only 1 word")
    found = store.article(new.id)
    assert (found.state, found.reason, found.text_source, found.text_note) == ("skipped", "only 1 word", "feed", "no article")


def test_a_removed_feed_takes_its_pages_along(database: Database) -> None:
    store, pages = stores(database)
    own = replace(article("a"), categories=("AI",))
    store.record_check(ME, FEED, replace(check(own), pages=frozenset([own.id])))
    store.record_result(ME, own.id, "h1", replace(summary(), tags=("x",)))
    store.sync_configured(ME, [], 2.0)
    store.remove_feed(FEED)
    assert pages.wanted(1e9, 9) == ()
