"""The outbox of the webhooks: what is to be told, and how the telling goes.

`Outbox.add` writes in the caller's transaction, so an event is stored with what it tells of or not at all. A message stays until its
receiver has taken it; then the row goes. What was given up is kept as dead for a person, for KEEP_S. Receivers' addresses and secrets are
not stored. Times are the caller's; all methods block. Tests: tests/contract_store/webhooks.py.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from serve_app.errors import Conflict, NotFound
from serve_app.events import Event, body, listeners
from serve_app.settings_webhooks import Webhook
from serve_app.store import leases
from serve_app.store.database import Database
from serve_app.store.feed_list import LEASE
from serve_app.store.schema import deliveries, webhooks

KEEP_S = 30 * 86_400.0  # dead letters, and what waits for a webhook that left the configuration
TEST = "webhook.test"
State = Literal["active", "disabled", "removed"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one receiver. `id` is its `webhook-id`, the same at every try."""

    id: str
    webhook_id: str
    event: str
    body: str
    created_at: float
    attempts: int
    next_try_at: float | None
    last_status: int | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """A webhook and how it does; `shown` is its address without secrets, `num_errors` counts since the last success."""

    id: str
    shown: str
    events: tuple[str, ...]
    feeds: tuple[str, ...]
    tags: tuple[str, ...]
    state: State
    reason: str | None
    num_delivered: int
    num_errors: int
    last_status: int | None
    last_error: str | None
    last_success_at: float | None
    last_failure_at: float | None
    pending: int = 0
    dead: int = 0


class Outbox:
    """Writes events for the webhooks of this moment, which `set` names."""

    def __init__(self) -> None:
        self._webhooks: tuple[Webhook, ...] = ()

    def set(self, wanted: Sequence[Webhook]) -> None:
        """Events from now on are for these."""
        self._webhooks = tuple(wanted)

    def wants(self, *types: str) -> bool:
        """Whether anybody hears of such events; if not, nobody need look up what they would tell."""
        return any(type in webhook.events for webhook in self._webhooks for type in types)

    def add(self, connection: Connection, event: Event) -> None:
        """Store a message per receiver, in this transaction. One that is disabled gets none."""
        ids = [webhook.id for webhook in listeners(self._webhooks, event)]
        if not ids:
            return
        disabled = set(connection.scalars(select(webhooks.c.id).where(webhooks.c.id.in_(ids), webhooks.c.state == "disabled")))
        rows = [_row(own, event.type, event.body, event.at) for own in ids if own not in disabled]
        if rows:
            connection.execute(insert(deliveries), rows)


class WebhookStore:
    """The webhooks of one database. What the sender writes needs the lease, because two senders would send twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sync(self, holder: str, wanted: Sequence[Webhook], now: float) -> None:
        """Make the list agree with the configuration. A disabled one whose settings changed is active again; what left is kept a while."""
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            known = {row.id: row for row in connection.execute(select(webhooks).with_for_update())}
            for webhook in wanted:
                values: dict[str, Any] = {"shown": webhook.shown, "fingerprint": webhook.fingerprint, "options": _options(webhook)}
                row = known.pop(webhook.id, None)
                if row is None:
                    start = {"id": webhook.id, "state": "active", "num_delivered": 0, "num_errors": 0}
                    connection.execute(insert(webhooks).values(start | values))
                elif row.fingerprint != webhook.fingerprint or row.state == "removed":
                    values |= {"state": "active", "reason": None, "num_errors": 0}
                    connection.execute(update(webhooks).where(webhooks.c.id == webhook.id).values(values))
            if known:
                connection.execute(update(webhooks).where(webhooks.c.id.in_(known)).values(state="removed"))
            connection.execute(delete(deliveries).where(deliveries.c.created_at < now - KEEP_S))
            waited_for = select(deliveries.c.webhook_id)
            connection.execute(delete(webhooks).where(webhooks.c.state == "removed", webhooks.c.id.not_in(waited_for)))

    def due(self, webhook_id: str, now: float, limit: int, exclude: Collection[str] = ()) -> tuple[Delivery, ...]:
        """What is to be sent to one receiver now, the oldest first; nothing to one that is disabled."""
        active = select(webhooks.c.id).where(webhooks.c.id == webhook_id, webhooks.c.state == "active")
        statement = _select().where(deliveries.c.webhook_id.in_(active), deliveries.c.next_try_at <= now)
        statement = statement.where(deliveries.c.id.not_in(list(exclude))).order_by(deliveries.c.next_try_at, deliveries.c.id).limit(limit)
        with self._database.read() as connection:
            return tuple(Delivery(**row._mapping) for row in connection.execute(statement))

    def claim(self, holder: str, delivery_id: str, until: float) -> bool:
        """Say that it is being sent: should this process die, it is due again at `until` and not at once. False where it is gone."""
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            statement = update(deliveries).where(deliveries.c.id == delivery_id, deliveries.c.next_try_at.is_not(None))
            return connection.execute(statement.values(next_try_at=until)).rowcount == 1

    def delivered(self, holder: str, delivery: Delivery, status: int, now: float) -> None:
        """The receiver has taken it."""
        values = {"num_delivered": webhooks.c.num_delivered + 1, "num_errors": 0, "last_status": status, "last_success_at": now}
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            connection.execute(update(webhooks).where(webhooks.c.id == delivery.webhook_id).values(values))
            connection.execute(delete(deliveries).where(deliveries.c.id == delivery.id))

    def failed(self, holder: str, delivery: Delivery, why: str, status: int | None, next_try_at: float | None, now: float) -> None:
        """A try failed; without `next_try_at` it was the last one, and only a person starts another."""
        own = {"num_errors": webhooks.c.num_errors + 1, "last_status": status, "last_error": why, "last_failure_at": now}
        values = {"attempts": delivery.attempts + 1, "next_try_at": next_try_at, "last_status": status, "last_error": why}
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            connection.execute(update(webhooks).where(webhooks.c.id == delivery.webhook_id).values(own))
            connection.execute(update(deliveries).where(deliveries.c.id == delivery.id).values(values))

    def disable(self, holder: str, webhook_id: str, why: str) -> None:
        """Nothing goes there until its settings change: what waits for it is dead, new events are not stored for it."""
        with self._database.begin() as connection:
            leases.require(connection, LEASE, holder)
            connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(state="disabled", reason=why))
            waiting = (deliveries.c.webhook_id == webhook_id) & deliveries.c.next_try_at.is_not(None)
            connection.execute(update(deliveries).where(waiting).values(next_try_at=None, last_error=why))

    def health(self) -> tuple[Health, ...]:
        """Every webhook, with the messages that wait for it and those that were given up."""
        grouped = select(
            deliveries.c.webhook_id, func.count(deliveries.c.next_try_at), func.count() - func.count(deliveries.c.next_try_at)
        ).group_by(deliveries.c.webhook_id)
        with self._database.read() as connection:
            counts = {own: (pending, dead) for own, pending, dead in connection.execute(grouped)}
            return tuple(
                _health(row, *counts.get(row.id, (0, 0))) for row in connection.execute(select(webhooks).order_by(webhooks.c.shown))
            )

    def dead(self, webhook_id: str, limit: int) -> tuple[Delivery, ...]:
        """What was given up for one receiver, the newest first.

        Raises:
            NotFound: there is no such webhook.
        """
        is_dead = and_(deliveries.c.webhook_id == webhook_id, deliveries.c.next_try_at.is_(None))
        statement = _select().where(is_dead).order_by(deliveries.c.created_at.desc(), deliveries.c.id).limit(limit)
        with self._database.read() as connection:
            _known(connection, webhook_id)
            return tuple(Delivery(**row._mapping) for row in connection.execute(statement))

    def redeliver(self, webhook_id: str, ids: Sequence[str] | None, now: float) -> int:
        """Send dead letters again, all of them or these; gives how many. Their tries begin anew.

        Raises:
            NotFound: there is no such webhook.
            Conflict: it is not active, so that nothing would be sent.
        """
        is_meant = and_(deliveries.c.webhook_id == webhook_id, deliveries.c.next_try_at.is_(None))
        if ids is not None:
            is_meant = and_(is_meant, deliveries.c.id.in_(ids))
        with self._database.begin() as connection:
            _active(connection, webhook_id)
            return connection.execute(update(deliveries).where(is_meant).values(next_try_at=now, attempts=0)).rowcount

    def test(self, webhook_id: str, now: float) -> str:
        """Put a message of type `webhook.test` into the outbox of one receiver; gives its id.

        Raises:
            NotFound: there is no such webhook.
            Conflict: it is not active.
        """
        row = _row(webhook_id, TEST, body(TEST, now, {"object": "webhook", "id": webhook_id}), now)
        with self._database.begin() as connection:
            _active(connection, webhook_id)
            connection.execute(insert(deliveries).values(row))
        return str(row["id"])


def _row(webhook_id: str, event: str, text: str, now: float) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "webhook_id": webhook_id,
        "event": event,
        "body": text,
        "created_at": now,
        "attempts": 0,
        "next_try_at": now,
    }


def _select() -> Any:
    return select(*(deliveries.c[name] for name in Delivery.__dataclass_fields__))


def _options(webhook: Webhook) -> str:
    return json.dumps({"events": webhook.events, "feeds": webhook.feeds, "tags": webhook.tags})


def _health(row: Any, pending: int, dead: int) -> Health:
    values = {name: value for name, value in row._mapping.items() if name not in ("fingerprint", "options")}
    values |= {name: tuple(value) for name, value in json.loads(row.options).items()}
    return Health(**values, pending=pending, dead=dead)


def _known(connection: Connection, webhook_id: str) -> Any:
    row = connection.execute(select(webhooks).where(webhooks.c.id == webhook_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id[:40]!r}; GET /v1/webhooks lists them")
    return row


def _active(connection: Connection, webhook_id: str) -> None:
    if (row := _known(connection, webhook_id)).state != "active":
        why = "left the configuration; put it back there" if row.state == "removed" else "is disabled; change its settings to begin again"
        raise Conflict(f"this webhook {why}")
