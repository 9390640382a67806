"""The article store on SQLite: the contract, and that what is read often goes through an index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from serve_app.messages_feeds import ArticleQuery
from serve_app.store.article_rows import cursor_behind
from serve_app.store.articles import ArticleStore
from tests.contract_store.articles import *  # noqa: F403 (tests, which pytest finds by their names here)
from tests.contract_store.makers import OTHER, URL, article


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
