"""Daily digests as rows: one per date and tag, whatever crashes.

A row is pending until it is done, failed or found empty; after that only a failed one changes, where a person asks for it again. What is
done goes into the outbox in the same transaction. Writes of the writer need the lease. Times are the caller's; all methods block.
Tests: tests/contract_store/daily.py.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Row, and_, delete, func, or_, select, update

from serve_app.errors import BadRequest, Conflict, NotFound
from serve_app.events import digest_event
from serve_app.messages_feeds import Article, DailyDigest, DailyPage, DailyQuery
from serve_app.store import leases
from serve_app.store.article_rows import article_of, select_articles
from serve_app.store.database import Database
from serve_app.store.feed_list import LEASE
from serve_app.store.schema import SHOWN_AT, articles, daily_digests, results
from serve_app.store.webhooks import Outbox

TOO_LATE = "it was not written before the next day was over"


class DailyStore:
    """The daily digests of one database."""

    def __init__(self, database: Database, outbox: Outbox | None = None) -> None:
        self._database = database
        self._outbox = outbox or Outbox()

    def begin(self, holder: str, date: str, tags: Sequence[str], now: float) -> None:
        """Want a digest of this date for each tag, if there is none yet. Those of earlier dates that still wait have failed, and those of
        tags that nobody wants any more are forgotten."""
        rows = [_row(DailyDigest(date, tag, updated_at=now)) for tag in tags]
        waits = daily_digests.c.state == "pending"
        reason = func.coalesce(daily_digests.c.reason, TOO_LATE)  # what went wrong says more
        failed = update(daily_digests).where(waits, daily_digests.c.date < date)
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            connection.execute(failed.values(state="failed", reason=reason, next_try_at=None, updated_at=now))
            connection.execute(delete(daily_digests).where(waits, daily_digests.c.tag.not_in(list(tags))))
            if rows:
                connection.execute(self._database.insert(daily_digests).on_conflict_do_nothing(), rows)

    def due(self, date: str, tags: Sequence[str], now: float) -> tuple[DailyDigest, ...]:
        """Those to write now."""
        is_due = or_(daily_digests.c.next_try_at.is_(None), daily_digests.c.next_try_at <= now)
        wanted = (daily_digests.c.date == date, daily_digests.c.tag.in_(list(tags)), daily_digests.c.state == "pending", is_due)
        with self._database.read() as connection:
            return tuple(_digest(row) for row in connection.execute(select(daily_digests).where(*wanted).order_by(daily_digests.c.tag)))

    def summarised(self, since: float, until: float, limit: int) -> tuple[Article, ...]:
        """Articles whose summary was stored in that time, `until` not included, the newest first and without their texts."""
        in_time = (results.c.created_at >= since, results.c.created_at < until, articles.c.state == "done")
        statement = select_articles(with_text=False).where(*in_time).order_by(SHOWN_AT.desc(), articles.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return tuple(article_of(row) for row in connection.execute(statement))

    def record(self, holder: str, digest: DailyDigest) -> bool:
        """Store what has become of a pending one; False, and nothing stored, where it is not pending any more."""
        values = _row(digest)
        is_it = [daily_digests.c[name] == values.pop(name) for name in ("date", "tag")]
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            stored = (
                connection.execute(update(daily_digests).where(*is_it, daily_digests.c.state == "pending").values(values)).rowcount == 1
            )
            if stored and digest.state == "done":
                self._outbox.add(connection, digest_event(digest))
            return stored

    def retry(self, date: str, tag: str, now: float) -> DailyDigest:
        """A person asks for a failed digest again: pending, with one more try at least. Only of the newest date: articles of earlier days
        may be gone, and what waits from them is given up.

        Raises:
            NotFound: there is none of this date and tag.
            Conflict: it has not failed, or is of an earlier date.
        """
        is_it = (daily_digests.c.date == date, daily_digests.c.tag == tag, daily_digests.c.state != "empty")
        with self._database.begin() as connection:
            row = connection.execute(select(daily_digests).where(*is_it).with_for_update()).one_or_none()
            if row is None:
                raise NotFound(f"there is no digest of {date} for {tag}; GET /v1/digests lists them")
            if row.state != "failed":
                raise Conflict(f"this digest is {row.state}; only a failed one can be written again")
            if row.date != connection.scalar(select(func.max(daily_digests.c.date))):
                raise Conflict("this digest is of an earlier day; only the last day's can be written again")
            again = replace(_digest(row), state="pending", reason=None, next_try_at=None, updated_at=now)
            connection.execute(update(daily_digests).where(*is_it).values(_row(again)))
        return again

    def query(self, query: DailyQuery) -> DailyPage:
        """A page, the newest first; days without articles of the tag are left out.

        Raises:
            BadRequest: the cursor is not one of ours.
        """
        statement = select(daily_digests).where(daily_digests.c.state != "empty")
        if query.tag is not None:
            statement = statement.where(daily_digests.c.tag == query.tag)
        if query.state is not None:
            statement = statement.where(daily_digests.c.state == query.state)
        if query.cursor is not None:
            date, tag = _place(query.cursor)
            is_behind = or_(daily_digests.c.date < date, and_(daily_digests.c.date == date, daily_digests.c.tag > tag))
            statement = statement.where(is_behind)
        statement = statement.order_by(daily_digests.c.date.desc(), daily_digests.c.tag).limit(query.limit + 1)
        with self._database.read() as connection:
            found = tuple(_digest(row) for row in connection.execute(statement))
        page = found[: query.limit]
        return DailyPage(page, _cursor(page[-1]) if len(found) > query.limit else None)


def _row(digest: DailyDigest) -> dict[str, Any]:
    return {**asdict(digest), "article_ids": json.dumps(digest.article_ids)}


def _digest(row: Row[Any]) -> DailyDigest:
    return DailyDigest(**{**row._mapping, "article_ids": tuple(json.loads(row.article_ids))})


def _cursor(digest: DailyDigest) -> str:
    return base64.urlsafe_b64encode(json.dumps([digest.date, digest.tag]).encode()).decode().rstrip("=")


def _place(cursor: str) -> tuple[str, str]:
    try:
        place = json.loads(base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if isinstance(place, list) and [type(part) for part in place] == [str, str]:
            return place[0], place[1]
    except (ValueError, binascii.Error, RecursionError):
        pass
    raise BadRequest("cursor is not one that this server gave out; start again without it", param="cursor")
