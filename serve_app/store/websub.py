"""WebSub subscriptions as rows: one per feed whose document names a hub. Times are the caller's; all methods block.

Needs no lease: each write is one small transaction about one row. Tests: tests/contract_store/websub.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import delete, select, update

from serve_app.store.database import Database
from serve_app.store.schema import feeds, websub

State = Literal["wanted", "asked", "active", "refused"]


@dataclass(frozen=True, slots=True)
class Subscription:
    """`token` is the secret part of the callback's path, `secret` what the hub signs with."""

    feed_id: str
    hub: str
    topic: str
    token: str
    secret: str
    state: State
    next_ask_at: float
    lease_until: float | None = None
    last_push_at: float | None = None
    num_errors: int = 0
    last_error: str | None = None


class SubscriptionStore:
    """The subscriptions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, feed_id: str) -> Subscription | None:
        """Of one feed."""
        with self._database.read() as connection:
            row = connection.execute(select(websub).where(websub.c.feed_id == feed_id)).one_or_none()
        return None if row is None else Subscription(**row._mapping)

    def due(self, now: float, limit: int = 10) -> tuple[Subscription, ...]:
        """Those whose hub is to be asked, of feeds that are followed."""
        followed = websub.c.feed_id.in_(select(feeds.c.id).where(feeds.c.state.in_(("new", "ok", "failing"))))
        statement = select(websub).where(websub.c.next_ask_at <= now, followed).order_by(websub.c.next_ask_at).limit(limit)
        with self._database.read() as connection:
            return tuple(Subscription(**row._mapping) for row in connection.execute(statement))

    def put(self, subscription: Subscription) -> None:
        """Store a new one, or another one in its place. Nothing where the feed was removed meanwhile."""
        values = asdict(subscription)
        insert = self._database.insert(websub).values(values)
        rest = {name: insert.excluded[name] for name in values if name != "feed_id"}
        with self._database.begin() as connection:
            feed = select(feeds.c.id).where(feeds.c.id == subscription.feed_id).with_for_update()
            if connection.execute(feed).one_or_none() is not None:
                connection.execute(insert.on_conflict_do_update(index_elements=["feed_id"], set_=rest))

    def change(self, subscription: Subscription, **values: Any) -> bool:
        """Change this one; False where another one is in its place by now."""
        is_it = (websub.c.feed_id == subscription.feed_id) & (websub.c.token == subscription.token)
        with self._database.begin() as connection:
            return connection.execute(update(websub).where(is_it).values(**values)).rowcount == 1

    def remove(self, feed_id: str) -> None:
        """Forget it."""
        with self._database.begin() as connection:
            connection.execute(delete(websub).where(websub.c.feed_id == feed_id))
