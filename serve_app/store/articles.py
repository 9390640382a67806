"""Articles, their results and the health of their feeds: the state of the Feeds loop, all of it in the database.

Every write of the loop names its `holder` and raises LeaseLost, in the same transaction, when the lease is another's: a process that was
paused cannot write after its successor began. Times are the caller's; all methods block. Tests: tests/contract_store/articles.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from serve_app import faults
from serve_app.errors import Conflict, NotFound
from serve_app.events import article_event, feed_event
from serve_app.messages_feeds import Article, ArticlePage, ArticleQuery, ArticleState, Feed, Summary
from serve_app.store import article_pages, article_rows, leases
from serve_app.store.article_rows import article_of, article_values, feed_of, select_articles
from serve_app.store.database import Database
from serve_app.store.feed_list import LEASE, FeedList
from serve_app.store.leases import LeaseLost
from serve_app.store.records import FeedCheck, FeedFailure, KnownArticle
from serve_app.store.schema import SHOWN_AT, articles, feeds, pages, results
from serve_app.store.webhooks import Outbox

__all__ = ["LEASE", "ArticleStore", "LeaseLost"]

IDENTITY = ("id", "feed_id", "guid", "first_seen_at")  # of an article: no edit changes these
FAILING_AFTER = 3  # checks in a row: one that fails is mostly a blip, and nobody wants to hear of those
MAX_PARAMETERS = 500  # per statement; SQLite's own limit was 999 once


class ArticleStore(FeedList):
    """The article store of one database. What it writes goes into the `outbox`, too, in the same transaction."""

    def __init__(self, database: Database, outbox: Outbox | None = None) -> None:
        super().__init__(database)
        self._outbox = outbox or Outbox()

    def lease(self, name: str, holder: str, now: float, lease_s: float) -> bool:
        """Take or renew the right to write until `now + lease_s`; False while another holder has it."""
        return leases.acquire(self._database, name, holder, now, lease_s)

    def release(self, name: str, holder: str) -> None:
        """Give the right to write back, if this holder still has it."""
        leases.release(self._database, name, holder)

    def mark_checking(self, holder: str, feed_id: str, now: float, next_check_at: float) -> None:
        """Say that a check begins, and when the next one is due should this one never end: a crash must not ask again at once."""
        with self._write(holder) as connection:
            connection.execute(update(feeds).where(feeds.c.id == feed_id).values(last_check_at=now, next_check_at=next_check_at))

    def unmark_checking(self, holder: str, feed: Feed, next_check_at: float) -> None:
        """Take `mark_checking` back, because that check was given up; a feed that got another time since then keeps it."""
        is_marked = (feeds.c.id == feed.id) & (feeds.c.next_check_at == next_check_at)
        with self._write(holder) as connection:
            before = {"last_check_at": feed.last_check_at, "next_check_at": feed.next_check_at}
            connection.execute(update(feeds).where(is_marked).values(before))

    def known(self, feed_id: str, guids: Sequence[str], text_hashes: Sequence[str] = ()) -> dict[str, KnownArticle]:
        """What is stored of a feed under these guids or with these texts, by guid."""
        names = ("text_hash", "state", "first_seen_at", "reason", "id", "link", "published_at")
        columns = select(articles.c.guid, *(articles.c[name] for name in names)).where(articles.c.feed_id == feed_id)
        found: dict[str, KnownArticle] = {}
        with self._database.read() as connection:
            for column, values in ((articles.c.guid, guids), (articles.c.text_hash, text_hashes)):
                for start in range(0, len(values), MAX_PARAMETERS):
                    some = column.in_(values[start : start + MAX_PARAMETERS])
                    for guid, *rest in connection.execute(columns.where(some)):
                        found[guid] = KnownArticle(*rest)
        return found

    def taken(self, ids: Sequence[str]) -> set[str]:
        """Which of these ids articles have."""
        found: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(ids), MAX_PARAMETERS):
                some = articles.c.id.in_(ids[start : start + MAX_PARAMETERS])
                found.update(connection.scalars(select(articles.c.id).where(some)))
        return found

    def record_check(self, holder: str, feed_id: str, check: FeedCheck) -> None:
        """Store a check with all that it found, or nothing of it: validators without their articles would lose them to the next 304.

        Raises:
            NotFound: the feed was removed meanwhile.
        """
        values = {
            "state": "ok",
            "num_errors": 0,
            "last_error": None,
            "last_status": check.status,
            "last_success_at": check.at,
            "next_check_at": check.next_check_at,
            "etag": check.etag,
            "last_modified": check.last_modified,
        }
        values |= {"title": check.title} if check.title else {}
        for part in (check.rhythm, check.move):
            values |= {} if part is None else asdict(part)
        with self._write(holder) as connection:
            self._update_feed(connection, feed_id, values)
            for renamed in check.renamed:
                values = {"guid": renamed.guid, "link": renamed.link}
                connection.execute(update(articles).where(articles.c.id == renamed.article_id).values(values))
            if check.new:
                insert = self._database.insert(articles).on_conflict_do_nothing()
                connection.execute(insert, [article_values(article) for article in check.new])
            for article in check.changed:
                kept = {name: value for name, value in article_values(article).items() if name not in IDENTITY}
                connection.execute(update(articles).where(articles.c.id == article.id).values(kept))
            article_pages.note(self._database, connection, check)
            faults.at("check written")

    def record_failure(self, holder: str, feed_id: str, failure: FeedFailure) -> None:
        """Store why a check went wrong. Validators and articles stay as they were.

        Raises:
            NotFound: the feed was removed meanwhile.
        """
        values = {
            "state": "gone" if failure.is_gone else "failing",
            "num_errors": feeds.c.num_errors + 1,
            "last_error": failure.error,
            "last_status": failure.status,
            "next_check_at": failure.next_check_at,
        }
        values |= {"moved_to": None} if failure.forget_move else {}
        with self._write(holder) as connection:
            self._update_feed(connection, feed_id, values)
            self._tell_of_feed(connection, feed_id, failure.at)

    def hold(self, holder: str, ids: Collection[str], until: float) -> None:
        """No check of these feeds before `until`: their host asked for a pause."""
        with self._write(holder) as connection:
            for start in range(0, len(ids), MAX_PARAMETERS):
                some = feeds.c.id.in_(list(ids)[start : start + MAX_PARAMETERS])
                connection.execute(update(feeds).where(some, feeds.c.next_check_at < until).values(next_check_at=until))

    def pending_articles(self, now: float, limit: int, exclude: Collection[str] = ()) -> tuple[Article, ...]:
        """Articles to summarise, the oldest first: pending ones and failed ones whose next try has come, without those of paused feeds."""
        is_due = or_(
            and_(articles.c.state == "pending", articles.c.next_try_at.is_(None)),
            and_(articles.c.state.in_(("pending", "failed")), articles.c.next_try_at <= now),
        )
        of_active = articles.c.feed_id.in_(select(feeds.c.id).where(feeds.c.state != "paused"))
        unread = articles.c.id.in_(select(pages.c.article_id).where(pages.c.state == "wanted"))
        statement = select_articles().where(is_due, of_active, ~unread, articles.c.id.not_in(list(exclude)))
        with self._database.read() as connection:
            return tuple(article_of(row) for row in connection.execute(statement.order_by(SHOWN_AT, articles.c.id).limit(limit)))

    def record_result(self, holder: str, article_id: str, text_hash: str, summary: Summary) -> bool:
        """Store an article's one result; False, and nothing stored, if its text is another by now."""
        values = {"state": "done", "reason": None, "next_try_at": None, "updated_at": summary.created_at}
        with self._write(holder) as connection:
            if not _update_article(connection, article_id, text_hash, values):
                return False
            row = {"article_id": article_id, "text_hash": text_hash, "summary": summary.text, "created_at": summary.created_at}
            row |= {name: getattr(summary, name) for name in article_rows.RESULT_COLUMNS if name != "summary"}
            insert = self._database.insert(results).values(row)
            rest = {name: insert.excluded[name] for name in row if name != "article_id"}
            connection.execute(insert.on_conflict_do_update(index_elements=["article_id"], set_=rest))
            self._tell_of_article(connection, article_id, summary.created_at)
            faults.at("result written")
            return True

    def record_article_failure(
        self, holder: str, article_id: str, text_hash: str, reason: str, attempts: int, next_try_at: float | None, now: float
    ) -> bool:
        """Store a failed try; without `next_try_at` only a person can start another. False if the text is another by now."""
        values = {"state": "failed", "reason": reason, "attempts": attempts, "next_try_at": next_try_at, "updated_at": now}
        with self._write(holder) as connection:
            is_stored = _update_article(connection, article_id, text_hash, values)
            if is_stored and next_try_at is None:
                self._tell_of_article(connection, article_id, now)
            return is_stored

    def postpone(self, holder: str, article_id: str, text_hash: str, reason: str, next_try_at: float) -> bool:
        """Leave an article pending until later, no try counted: the graph, not the article, was the reason."""
        with self._write(holder) as connection:
            return _update_article(connection, article_id, text_hash, {"reason": reason, "next_try_at": next_try_at})

    def retry_article(self, article_id: str, now: float) -> Article:
        """A person asks for an article again: pending, with one more try at least. The tries so far stay counted, because each asks in
        another way and the answer to the first would come out of the cache again.

        Raises:
            NotFound: no article has this id.
            Conflict: it is neither failed nor skipped.
        """
        values = {"state": "pending", "reason": None, "next_try_at": None, "updated_at": now}
        is_over = (articles.c.id == article_id) & articles.c.state.in_(("failed", "skipped"))
        with self._database.begin() as connection:
            changed = connection.execute(update(articles).where(is_over).values(values)).rowcount
        article = self.article(article_id)
        if not changed:
            raise Conflict(f"this article is {article.state}; only a failed or skipped one can be tried again")
        return article

    def query(self, query: ArticleQuery) -> ArticlePage:
        """A page of articles, newest first, each with an empty `text`: a list shows none, and texts are nearly all of the table.

        Raises:
            BadRequest: the cursor is not one of ours.
        """
        with self._database.read() as connection:
            found = tuple(article_of(row) for row in connection.execute(article_rows.select_page(query)))
        page = found[: query.limit]
        return ArticlePage(page, article_rows.cursor_behind(page[-1]) if len(found) > query.limit else None)

    def article(self, article_id: str) -> Article:
        """One article.

        Raises:
            NotFound: no article has this id.
        """
        with self._database.read() as connection:
            row = connection.execute(select_articles().where(articles.c.id == article_id)).one_or_none()
        if row is None:
            raise NotFound(f"there is no article {article_id[:40]!r}; the list of articles has their ids")
        return article_of(row)

    def counts(self) -> dict[ArticleState, int]:
        """How many articles are in each state."""
        grouped = select(articles.c.state, func.count()).group_by(articles.c.state)
        with self._database.read() as connection:
            found: dict[str, int] = {state: count for state, count in connection.execute(grouped)}  # noqa: C416 (rows are no pairs to mypy)
        return {state: found.get(state, 0) for state in article_rows.STATES}

    @contextlib.contextmanager
    def _write(self, holder: str) -> Iterator[Connection]:
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            yield connection

    def _tell_of_article(self, connection: Connection, article_id: str, now: float) -> None:
        if self._outbox.wants("article.done", "article.failed"):
            article = article_of(connection.execute(select_articles().where(articles.c.id == article_id)).one())
            self._outbox.add(connection, article_event(article, self._feed(connection, article.feed_id), now))

    def _tell_of_feed(self, connection: Connection, feed_id: str, now: float) -> None:
        if self._outbox.wants("feed.failing", "feed.gone"):
            feed = self._feed(connection, feed_id)
            if feed.state == "gone" or (feed.state == "failing" and feed.num_errors == FAILING_AFTER):
                self._outbox.add(connection, feed_event(feed, now))

    def _feed(self, connection: Connection, feed_id: str) -> Feed:
        return feed_of(connection.execute(select(feeds).where(feeds.c.id == feed_id)).one(), ())

    def _update_feed(self, connection: Connection, feed_id: str, values: dict[str, Any]) -> None:
        # A feed that was paused while it was checked stays paused; locked, so that nobody pauses or removes it in between.
        state = connection.execute(select(feeds.c.state).where(feeds.c.id == feed_id).with_for_update()).scalar_one_or_none()
        if state is None:
            raise NotFound(f"the feed {feed_id!r} was removed")
        if state == "paused":
            values = {name: value for name, value in values.items() if name != "state"}
        connection.execute(update(feeds).where(feeds.c.id == feed_id).values(values))


def _update_article(connection: Connection, article_id: str, text_hash: str, values: dict[str, Any]) -> bool:
    is_same = (articles.c.id == article_id) & (articles.c.text_hash == text_hash)
    return connection.execute(update(articles).where(is_same).values(values)).rowcount == 1
