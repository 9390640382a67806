"""Lists of articles: pages visit each article once, filters find what they should, and no cursor breaks anything."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import BadRequest
from serve_app.messages_feeds import Article, ArticleQuery
from serve_app.store.article_rows import read_cursor
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from tests.contract_store.makers import ME, article, summary, with_articles


@pytest.fixture
def store(database: Database) -> ArticleStore:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    return store


def test_a_list_has_no_texts_and_one_article_has(store: ArticleStore) -> None:
    with_articles(store, article("a"))
    assert store.query(ArticleQuery()).articles == (article("a", text=""),)
    assert store.query(ArticleQuery(text="text")).articles == (article("a", text=""),)
    assert store.article(article("a").id).text == "text"


def test_articles_with_a_tag_are_found_in_any_case_and_no_others(store: ArticleStore) -> None:
    with_articles(store, *(article(guid, categories=("Own", "Ünique")) for guid in "abc"))
    made = replace(summary(), tags_from="model", grounding=0.5, missing=("x",))
    for guid, tags in (("a", ("Ray", "c++")), ("b", ("ray serve",)), ("c", ())):
        assert store.record_result(ME, article(guid).id, "h1", replace(made, tags=tags))
    wanted = {"ray": {"a"}, "RAY": {"a"}, "C++": {"a"}, "ray serve": {"b"}, "own": set(), "%": set(), "r_y": set(), '"': set()}
    assert {tag: {one.guid for one in store.query(ArticleQuery(tag=tag)).articles} for tag in wanted} == {
        tag: {article(guid).guid for guid in guids} for tag, guids in wanted.items()
    }
    assert store.article(article("a").id).categories == ("Own", "Ünique")
    assert store.article(article("a").id).summary == replace(made, tags=("Ray", "c++"))
    assert store.article(article("c").id).summary == made


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


def test_a_limit_of_nothing_is_refused(store: ArticleStore) -> None:
    with pytest.raises(BadRequest):
        store.query(ArticleQuery(limit=0))
