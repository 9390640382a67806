"""The feeds table: who is on the list, and what a person may do to it. The loop's own writes are in articles.py.

What a person asks for (add, remove, refresh) needs no lease: each is one small transaction that any replica may make.
Tests: tests/contract_store/articles.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from serve_app.errors import BadRequest, Conflict, NotFound
from serve_app.feed_url import check_feed_url
from serve_app.messages_feeds import ArticleState, Feed
from serve_app.settings_feeds import FeedEntry, FeedOptions
from serve_app.store import article_rows, leases, pausing
from serve_app.store.database import Database
from serve_app.store.schema import articles, feeds, pages, results, websub

LEASE = "feeds"
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


def feed_id(url: str) -> str:
    """The first 16 hex digits of SHA-256 over the address."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


class FeedList:
    """Reads and the commands of a person. All methods block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def feeds(self) -> tuple[Feed, ...]:
        """Every feed with its health, in the order of their addition."""
        with self._database.read() as connection:
            return _read(connection, select(feeds).order_by(feeds.c.created_at, feeds.c.url))

    def feed(self, feed_id: str) -> Feed:
        """One feed.

        Raises:
            NotFound: no feed has this id.
        """
        with self._database.read() as connection:
            return _one(connection, feed_id)

    def due_feeds(self, now: float) -> tuple[Feed, ...]:
        """Feeds to check, the longest overdue first, with their articles not counted."""
        is_due = feeds.c.state.in_(("new", "ok", "failing")) & (feeds.c.next_check_at <= now)
        with self._database.read() as connection:
            rows = connection.execute(select(feeds).where(is_due).order_by(feeds.c.next_check_at, feeds.c.id))
            return tuple(article_rows.feed_of(row, ()) for row in rows)

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Of every feed, by id, the address that it was given and the one that it moved to."""
        with self._database.read() as connection:
            rows = connection.execute(select(feeds.c.id, feeds.c.url, feeds.c.moved_to))
            return {own: (url, moved_to) if moved_to else (url,) for own, url, moved_to in rows}

    def add_feed(self, url: str, now: float, options: Mapping[str, Any] = NO_OPTIONS) -> Feed:
        """Put a feed on the list. One that the configuration had named and dropped comes back, with what is given here.

        `options` are the JSON of settings_feeds.FeedOptions.

        Raises:
            BadRequest: no feed can have this address.
            Conflict: it is on the list; the message names its id.
        """
        try:
            check_feed_url(url)
        except ValueError as error:
            raise BadRequest(str(error), param="url") from None
        with self._database.begin() as connection:
            known = connection.execute(select(feeds).where(feeds.c.url == url).with_for_update()).one_or_none()
            if known is not None and not pausing.is_dropped(known.paused_by):
                raise Conflict(f"this feed is on the list already, as {known.id}{_though_paused(known)}", param="url")
            if known is not None:
                own = {"title": options.get("title") or known.title, "options": _json(options), "paused_by": None}
                connection.execute(_update(known.id, origin="api", state=_state_after(known), next_check_at=now, **own))
            elif not self._database.insert_new(connection, feeds, _row(url, "api", options, now)):
                raise Conflict(f"this feed is on the list already, as {feed_id(url)}", param="url")
            return _one(connection, feed_id(url))

    def remove_feed(self, feed_id: str) -> None:
        """Take a feed that was added by API off the list, with its articles.

        Raises:
            NotFound: no feed has this id.
            Conflict: the configuration names it.
        """
        with self._database.begin() as connection:
            if (feed := _locked(connection, feed_id)).origin == "config" and not pausing.is_dropped(feed.paused_by):
                raise Conflict("the configuration names this feed; take it out of feeds: there, then it is paused and can be removed")
            own = select(articles.c.id).where(articles.c.feed_id == feed_id)
            connection.execute(own.with_for_update())  # a result that is just being stored is then here, or never will be
            connection.execute(delete(websub).where(websub.c.feed_id == feed_id))
            for table in (results, pages):
                connection.execute(delete(table).where(table.c.article_id.in_(own)))
            connection.execute(delete(articles).where(articles.c.feed_id == feed_id))
            connection.execute(delete(feeds).where(feeds.c.id == feed_id))

    def change_feed(self, feed_id: str, options: Mapping[str, Any], paused: bool | None = None) -> Feed:
        """Give a feed that the API added other options. One of None is as for all feeds again; what is not named stays.
        `paused`: a person pauses it, or lets it go on; that works on those of the configuration, too.

        Raises:
            NotFound: no feed has this id.
            Conflict: the configuration names it, and it was to get options; or it is paused because it left the configuration.
        """
        with self._database.begin() as connection:
            feed = _locked(connection, feed_id)
            if options and feed.origin == "config":
                raise Conflict("the configuration names this feed; change its options there")
            if options:
                own = {name: value for name, value in {**feed.options, **options}.items() if value is not None}
                connection.execute(_update(feed_id, title=own.get("title") or feed.title, options=_json(own)))
            if paused is not None and (changed := _paused(feed, paused)):
                connection.execute(_update(feed_id, **changed))
            return _one(connection, feed_id)

    def options_of(self, feed_id: str) -> FeedOptions:
        """A feed's own options; none where there is no such feed. What this version does not know is left out."""
        with self._database.read() as connection:
            kept = connection.execute(select(feeds.c.options).where(feeds.c.id == feed_id)).scalar_one_or_none()
        known = {name: value for name, value in json.loads(kept or "{}").items() if name in FeedOptions.model_fields}
        return FeedOptions.load(known, "options")

    def refresh(self, feed_id: str, now: float) -> Feed:
        """Make a feed due; one that is gone gets another chance.

        Raises:
            NotFound: no feed has this id.
            Conflict: it is paused.
        """
        with self._database.begin() as connection:
            feed = _locked(connection, feed_id)
            if feed.state == "paused":
                raise Conflict(pausing.why(feed.paused_by))
            state = "failing" if feed.state == "gone" else feed.state
            connection.execute(_update(feed_id, state=state, next_check_at=min(feed.next_check_at, now)))
            return _one(connection, feed_id)

    def sync_configured(self, holder: str, entries: Sequence[FeedEntry], now: float) -> None:
        """Make the list agree with the configuration: missing feeds are added, those that came back revived, those that left paused.
        Feeds added by API stay as they are.

        Raises:
            LeaseLost: this holder may not write.
        """
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            named = {entry.url: entry for entry in entries}
            if named:  # those that are there already, even since a moment ago, stay
                rows = [_row(url, "config", entry.options, now) for url, entry in sorted(named.items())]
                connection.execute(self._database.insert(feeds).values(rows).on_conflict_do_nothing())
            for row in connection.execute(select(feeds).order_by(feeds.c.id).with_for_update()).all():
                if row.url in named:
                    connection.execute(_update(row.id, **_named(row, named[row.url], now)))
                elif row.origin == "config" and not pausing.is_dropped(row.paused_by):
                    connection.execute(_update(row.id, state="paused", paused_by=pausing.with_config(row.paused_by)))


def _named(row: Any, entry: FeedEntry, now: float) -> dict[str, Any]:
    values: dict[str, Any] = {"origin": "config", "title": entry.title or row.title, "options": _json(entry.options)}
    if pausing.is_dropped(row.paused_by):
        by = pausing.without_config(row.paused_by)
        values |= {"paused_by": by, "state": "paused" if by else _state_after(row), "next_check_at": now}
    return values


def _paused(feed: Feed, paused: bool) -> dict[str, Any]:
    """What changes where a person pauses a feed or lets it go on. Its next check stays when it was: the host may want its pause."""
    if paused:
        return {"state": "paused", "paused_by": pausing.with_person(feed.paused_by)}
    if feed.paused_by == "config":
        raise Conflict(pausing.why(feed.paused_by))
    if feed.paused_by is None:
        return {}
    by = pausing.without_person(feed.paused_by)
    return {"state": "paused" if by else _state_after(feed), "paused_by": by}


def _though_paused(row: Any) -> str:
    return f", and paused by a person; {pausing.RESUME}" if row.paused_by == "person" else ""


def _state_after(feed: Any) -> str:
    """The state of a feed or its row that is paused no more."""
    if feed.last_success_at is None:
        return "new"
    return "failing" if feed.num_errors else "ok"


def _row(url: str, origin: str, options: Mapping[str, Any], now: float) -> dict[str, Any]:
    return {
        "id": feed_id(url),
        "url": url,
        "origin": origin,
        "state": "new",
        "title": options.get("title") or "",
        "options": _json(options),
        "num_errors": 0,
        "next_check_at": now,
        "created_at": now,
    }


def _json(options: Mapping[str, Any]) -> str | None:
    return json.dumps(dict(options), sort_keys=True) if options else None


def _update(feed_id: str, **values: Any) -> Any:
    return update(feeds).where(feeds.c.id == feed_id).values(**values)


def _one(connection: Connection, feed_id: str) -> Feed:
    found = _read(connection, select(feeds).where(feeds.c.id == feed_id))
    if not found:
        raise _missing(feed_id)
    return found[0]


def _locked(connection: Connection, feed_id: str) -> Feed:
    """The same, and nobody else changes it before this transaction ends."""
    lock = select(feeds.c.id).where(feeds.c.id == feed_id).with_for_update()
    # Nothing where the row that was waited for is deleted, even if one with the same id was added since: that one is not locked.
    if connection.execute(lock).one_or_none() is None:
        raise _missing(feed_id)
    return _one(connection, feed_id)


def _missing(feed_id: str) -> NotFound:
    return NotFound(f"there is no feed {feed_id[:40]!r}; the list of feeds has their ids")


def _read(connection: Connection, statement: Any) -> tuple[Feed, ...]:
    rows = connection.execute(statement).all()
    counts: dict[str, list[tuple[ArticleState, int]]] = {row.id: [] for row in rows}
    grouped = select(articles.c.feed_id, articles.c.state, func.count()).group_by(articles.c.feed_id, articles.c.state)
    for own, state, count in _counted(connection, grouped, counts):
        counts[own].append((state, count))
    return tuple(article_rows.feed_of(row, counts[row.id]) for row in rows)


def _counted(connection: Connection, grouped: Any, wanted: dict[str, Any]) -> Iterable[tuple[str, ArticleState, int]]:
    if not wanted:
        return
    if len(wanted) == 1:
        grouped = grouped.where(articles.c.feed_id == next(iter(wanted)))
    for own, state, count in connection.execute(grouped):
        if own in wanted:
            yield own, state, count
