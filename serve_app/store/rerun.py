"""Chosen articles pending again, and what is known of them before. All methods block. Tests: tests/contract_store/rerun.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update

from serve_app.messages_feeds import Rerun
from serve_app.store.article_rows import has_tag
from serve_app.store.database import Database
from serve_app.store.schema import SHOWN_AT, articles, feeds, pages, results

BATCH = 500  # ids in one statement
BEST_TEXT = func.coalesce(func.nullif(pages.c.text, ""), articles.c.text)  # as Article.best_text


@dataclass(frozen=True, slots=True)
class Chosen:
    """An article that a rerun is about, and the prompt and model of its present summary; "" where there is none."""

    id: str
    feed_id: str
    text: str
    prompt_version: str
    model: str


class RerunStore:
    """The articles of one database, as far as reruns go."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def chosen(self, rerun: Rerun) -> Iterator[Chosen]:
        """The articles in question, in the order in which they would be summarised. In batches, as not all texts fit in memory."""
        after: tuple[Any, str] | None = None
        while True:
            statement = _select(rerun, SHOWN_AT.label("at"), BEST_TEXT.label("text"), results.c.prompt_version, results.c.model)
            if after is not None:
                statement = statement.where(or_(after[0] < SHOWN_AT, and_(after[0] == SHOWN_AT, articles.c.id > after[1])))
            with self._database.read() as connection:
                rows = connection.execute(statement.order_by(SHOWN_AT, articles.c.id).limit(BATCH)).all()
            for row in rows:
                yield Chosen(row.id, row.feed_id, row.text, row.prompt_version or "", row.model or "")
            if len(rows) < BATCH:
                return
            after = (rows[-1].at, rows[-1].id)

    def start(self, ids: Sequence[str], rerun: Rerun, now: float) -> int:
        """Make those of them pending that are still to be run again, from their first try; how many. Their summaries stay until there are
        new ones."""
        values = {"state": "pending", "reason": None, "attempts": 0, "next_try_at": None, "updated_at": now}
        num = 0
        for start in range(0, len(ids), BATCH):
            some = articles.c.id.in_(ids[start : start + BATCH]) & (articles.c.state == rerun.state)
            with self._database.begin() as connection:
                num += connection.execute(update(articles).where(some).values(values)).rowcount
        return num


def _select(rerun: Rerun, *more: Any) -> Select[Any]:
    joined = articles.outerjoin(results, and_(results.c.article_id == articles.c.id, results.c.text_hash == articles.c.text_hash))
    joined = joined.outerjoin(pages, pages.c.article_id == articles.c.id)
    active = select(feeds.c.id).where(feeds.c.state != "paused")
    statement = select(articles.c.id, articles.c.feed_id, *more).select_from(joined)
    statement = statement.where(articles.c.state == rerun.state, articles.c.feed_id.in_(active))
    if rerun.feed_id is not None:
        statement = statement.where(articles.c.feed_id == rerun.feed_id)
    if rerun.ids is not None:
        statement = statement.where(articles.c.id.in_(rerun.ids))
    if rerun.since is not None:
        statement = statement.where(rerun.since <= SHOWN_AT)
    if rerun.tag is not None:
        statement = statement.where(has_tag(rerun.tag))
    if rerun.prompt_version_not is not None:
        statement = statement.where(or_(results.c.prompt_version.is_(None), ~_is_version(rerun.prompt_version_not)))
    if rerun.model_not is not None:
        statement = statement.where(or_(results.c.model.is_(None), results.c.model != rerun.model_not))
    return statement


def _is_version(version: str) -> ColumnElement[bool]:
    """Of this version, whatever feeds have added to it: their own template (`2+a1b2c3`) or a language (`2:German`)."""
    column = results.c.prompt_version
    return or_(column == version, *(column.startswith(f"{version}{mark}", autoescape=True) for mark in "+:"))
