"""Which articles' own pages are to be read, and what was found there.

A wanted page is a row from the transaction that stores the article, so a crash at any point loses none; each try is counted before its
request, so a crash asks nobody more often either. Tests: tests/contract_store/article_pages.py.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, select, update

from serve_app import faults
from serve_app.messages_feeds import Article, TextSource
from serve_app.store import leases
from serve_app.store.article_rows import article_of, select_articles
from serve_app.store.database import Database
from serve_app.store.feed_list import LEASE
from serve_app.store.records import FeedCheck
from serve_app.store.schema import SHOWN_AT, articles, feeds, pages


def note(database: Database, connection: Connection, check: FeedCheck) -> None:
    """With a check: whose pages are to be read from now on. Nothing is kept of a changed text."""
    for article in check.changed:
        connection.execute(delete(pages).where(pages.c.article_id == article.id))
    if wanted := [_wanted(article.id) for article in (*check.new, *check.changed) if article.id in check.pages]:
        connection.execute(database.insert(pages).on_conflict_do_nothing(), wanted)


def again(connection: Connection, article_id: str) -> None:
    """A person asks for this article again: its page, too, where it was wanted and could not be had."""
    was_missed = (pages.c.article_id == article_id) & (pages.c.state == "feed")
    connection.execute(update(pages).where(was_missed).values(_wanted(article_id)))


def _wanted(article_id: str) -> dict[str, Any]:
    return {"article_id": article_id, "state": "wanted", "attempts": 0, "next_try_at": 0.0, "note": None, "text": ""}


@dataclass(frozen=True, slots=True)
class WantedPage:
    """An article whose page is to be read, where its feed is found, how often the page was asked for, and the feed's own options."""

    article: Article
    feed_url: str
    attempts: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


class PageStore:
    """The pages of one database. All methods block; those that write raise LeaseLost where the lease is another's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def wanted(self, now: float, limit: int, exclude: Collection[str] = ()) -> tuple[WantedPage, ...]:
        """Pages that may be asked for now, those of the oldest articles first; none of paused feeds."""
        is_due = (pages.c.state == "wanted") & (pages.c.next_try_at <= now) & (articles.c.state == "pending")
        own = (
            pages.c.attempts.label("page_attempts"),
            feeds.c.url.label("feed_url"),
            feeds.c.moved_to.label("feed_moved_to"),
            feeds.c.options.label("feed_options"),
        )
        statement = select_articles().add_columns(*own).join(feeds, feeds.c.id == articles.c.feed_id)
        statement = statement.where(is_due, feeds.c.state != "paused", articles.c.id.not_in(list(exclude)))
        statement = statement.order_by(SHOWN_AT, articles.c.id).limit(limit)
        with self._database.read() as connection:
            return tuple(
                WantedPage(article_of(row), row.feed_moved_to or row.feed_url, row.page_attempts, json.loads(row.feed_options or "{}"))
                for row in connection.execute(statement)
            )

    def mark(self, holder: str, article_id: str, attempts: int, next_try_at: float) -> None:
        """Say that a try begins, and when the next one is due should this one never end."""
        self._write(holder, article_id, attempts=attempts, next_try_at=next_try_at)

    def postpone(self, holder: str, article_id: str, why: str, next_try_at: float) -> None:
        """Look again then."""
        self._write(holder, article_id, note=why, next_try_at=next_try_at)

    def decide(
        self, holder: str, article: Article, source: TextSource, text: str = "", why: str | None = None, skip: str | None = None
    ) -> bool:
        """Store which text is used, with the page's or with `why` it is the feed's; `skip`: neither is worth a summary, and why. False,
        and nothing stored, if the feed has another text of the article by now."""
        is_same = (articles.c.id == article.id) & (articles.c.text_hash == article.text_hash)
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            if connection.execute(select(articles.c.id).where(is_same).with_for_update()).first() is None:
                return False
            connection.execute(update(pages).where(pages.c.article_id == article.id).values(state=source, text=text, note=why))
            if skip is not None:
                connection.execute(update(articles).where(is_same, articles.c.state == "pending").values(state="skipped", reason=skip))
            faults.at("page written")
            return True

    def _write(self, holder: str, article_id: str, **values: Any) -> None:
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            connection.execute(update(pages).where(pages.c.article_id == article_id, pages.c.state == "wanted").values(values))
