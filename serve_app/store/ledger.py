"""The books: what was answered, added up per hour, and what each Model replica did with its time.

AnswerCache and Model add to them about once a second, so a kill loses at most the last second. Tests: tests/contract_store/ledger.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from sqlalchemy import func, select

from serve_app.store.database import Database
from serve_app.store.schema import ledger, replicas

KEYS = ("hour", "model", "feed_id", "outcome", "ending")


@dataclass(slots=True)
class LedgerRow:
    """Sums over the requests of one hour, model, feed, outcome and ending; the columns are described in store/schema.py."""

    hour: int
    model: str
    feed_id: str
    outcome: str
    ending: str
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    compute_s: float = 0.0
    alone_s: float = 0.0
    avoided_s: float = 0.0
    cost_usd: float = 0.0
    latency_s: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two rows one."""
        return tuple(getattr(self, name) for name in KEYS)

    def add(self, other: LedgerRow) -> None:
        """Add another row's sums to this one's."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


SUMS = tuple(field.name for field in fields(LedgerRow) if field.name not in KEYS)


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One Model replica's time, in seconds, and its price; the columns are described in store/schema.py."""

    id: str
    model: str
    host: str
    phase: str
    started_at: float
    last_seen_at: float
    stopped_at: float | None
    startup_s: float
    used_s: float
    idle_s: float
    lost_s: float
    price_per_hour_usd: float
    cost_usd: float
    allocation_usd: float
    steps: int
    rows: int
    wasted_rows: int


class Ledger:
    """The tables `ledger` and `replicas`. All calls block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Add each row to the stored row with the same keys, all in one transaction.

        Raises:
            DatabaseUnavailable: most likely nothing was added. Only where the server died in the middle of the commit may it have been,
                and adding again then counts that second twice.
        """
        in_order = sorted(rows, key=lambda row: repr(row.key))  # the same for all: two that lock rows in two orders wait for ever
        with self._database.begin() as connection:
            for row in in_order:
                values = {field.name: getattr(row, field.name) for field in fields(row)}
                statement = self._database.insert(ledger).values(values)
                sums = {name: ledger.c[name] + statement.excluded[name] for name in SUMS}
                connection.execute(statement.on_conflict_do_update(index_elements=list(KEYS), set_=sums))

    def rows(self, since: float = 0.0) -> list[LedgerRow]:
        """All rows whose hour ends after a Unix time."""
        with self._database.read() as connection:
            found = connection.execute(select(ledger).where(ledger.c.hour > since - 3600).order_by(ledger.c.hour)).mappings()
            return [LedgerRow(**row) for row in found]

    def put_replica(self, row: ReplicaRow) -> None:
        """Store a replica's latest row."""
        values = asdict(row)
        statement = self._database.insert(replicas).values(values)
        with self._database.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))

    def replicas(self, since: float = 0.0) -> list[ReplicaRow]:
        """Every replica that was seen after a Unix time, oldest first."""
        with self._database.read() as connection:
            query = select(replicas).where(replicas.c.last_seen_at >= since).order_by(replicas.c.started_at)
            return [ReplicaRow(**row) for row in connection.execute(query).mappings()]

    def live_replicas(self, host: str, since: float) -> int:
        """How many replicas on this host were seen after a Unix time and have not stopped."""
        query = select(func.count()).where(replicas.c.host == host, replicas.c.last_seen_at >= since, replicas.c.stopped_at.is_(None))
        with self._database.read() as connection:
            return int(connection.scalar(query) or 0)
