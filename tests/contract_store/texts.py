"""Texts that a database refuses: an answer comes back exactly, everything else legibly, and nothing breaks."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from serve_app.errors import BadRequest, NotFound
from serve_app.feed_url import MAX_FEED_URL
from serve_app.feeds.decide import article_id
from serve_app.feeds.parse import MAX_GUID
from serve_app.messages_feeds import ArticleQuery
from serve_app.store.answers import AnswerStore
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger, LedgerRow
from serve_app.store.records import FeedFailure, KnownArticle
from serve_app.store.schema import answers
from tests.contract_store.answers import stored
from tests.contract_store.makers import FEED, ME, article, summary, with_articles

ODD = "a\0b\ud800c\udfff"
SHOWN = "a\ufffdb\ufffdc\ufffd"
ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@pytest.fixture
def articles(database: Database) -> ArticleStore:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    return store


@pytest.mark.parametrize("text", [ODD, "\ud83d\ude00", "😀", "\\0000 \\", "C:\\d800\\x", "\0" * 1000])
def test_an_answer_with_any_character_comes_back_exactly(database: Database, text: str) -> None:
    store = AnswerStore(database)
    store.put(stored(text=text))
    assert store.get(stored().key) == stored(text=text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(text=ANY_TEXT)
def test_so_does_every_other_answer(database: Database, text: str) -> None:
    test_an_answer_with_any_character_comes_back_exactly(database, text)


def test_an_article_and_its_summary_are_stored_with_what_can_be_shown(articles: ArticleStore) -> None:
    odd = article("a", title=ODD, text=f"text {ODD}", author=ODD)
    with_articles(articles, odd)
    assert articles.record_result(ME, odd.id, "h1", summary(ODD))
    found = articles.article(odd.id)
    assert (found.title, found.text, found.author) == (SHOWN, f"text {SHOWN}", SHOWN)
    assert found.summary == summary(SHOWN)


def test_a_reason_may_hold_anything(articles: ArticleStore) -> None:
    with_articles(articles, article("a"))
    articles.record_failure(ME, FEED, FeedFailure(2.0, ODD, 3.0))
    articles.record_article_failure(ME, article("a").id, "h1", ODD, 1, None, 2.0)
    assert (articles.feed(FEED).last_error, articles.article(article("a").id).reason) == (SHOWN, SHOWN)


def test_what_is_asked_for_may_hold_anything_too(articles: ArticleStore) -> None:
    with_articles(articles, article("a", text="before \0 behind"))
    for query in (ArticleQuery(text=ODD), ArticleQuery(feed_id=ODD), ArticleQuery(text="\0" * 5_000), ArticleQuery(text="\ud800%_\\")):
        assert articles.query(query).articles == ()
    assert len(articles.query(ArticleQuery(text="before \0 behind")).articles) == 1
    assert articles.known(FEED, [ODD]) == {}
    for ask in (articles.article, articles.feed, articles.remove_feed):
        with pytest.raises(NotFound):
            ask(ODD)
    for url in (f"https://feed.test/{ODD}", "https://feed.test/" + "x" * 2_000):
        with pytest.raises(BadRequest):
            articles.add_feed(url, 1.0)


def test_the_longest_guid_and_address_fit_into_the_index(articles: ArticleStore) -> None:
    anything = random.Random(7)  # nothing that could be compressed
    guid, path = ("".join(chr(anything.randint(0x4E00, 0x9FFF)) for _ in range(length // 3)) for length in (MAX_GUID, MAX_FEED_URL - 20))
    with_articles(articles, article(guid))
    assert articles.known(FEED, [guid]) == {guid: KnownArticle("h1", "pending", 10.0, None, article_id(FEED, guid), "https://x.test/")}
    assert articles.add_feed(f"https://feed.test/{path}", 1.0).url == f"https://feed.test/{path}"


def test_the_books_may_hold_anything_and_large_numbers(database: Database) -> None:
    ledger = Ledger(database)
    row = LedgerRow(3600 * 1_500_000, ODD, ODD, "hit", "stop", 2**40, 2**50, 2**41, 0.1, 0.1, 1e300, 1e-300, 1 / 3)
    ledger.add([row])
    ledger.add([row])
    doubled = LedgerRow(row.hour, SHOWN, SHOWN, "hit", "stop", 2**41, 2**51, 2**42, 0.2, 0.2, 2e300, 2e-300, 2 / 3)
    assert ledger.rows() == [doubled]


def test_sizes_add_up_beyond_32_bits(database: Database) -> None:
    store = AnswerStore(database)
    for number in range(4):
        store.put(stored(number, created_at=1000.0 + number))
    with database.begin() as connection:
        connection.execute(update(answers).values(size_bytes=3 * 2**30))
    assert store.totals().size_bytes == 12 * 2**30
    assert store.evict(10 * 2**30, older_than=0) == 1
    assert type(store.totals().size_bytes) is int
