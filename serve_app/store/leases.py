"""Who may write: a named lease is one row with a holder and an expiry. Times are the caller's.

A holder that was paused past its expiry finds out in its next transaction, which checks the row before it writes.
Tests: tests/contract_store/leases.py.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from serve_app.store.database import Database
from serve_app.store.schema import leases


class LeaseLost(Exception):
    """Another holder may write now; nothing was written."""


def acquire(database: Database, name: str, holder: str, now: float, lease_s: float) -> bool:
    """Take or renew a lease until `now + lease_s`; False while another holder's runs."""
    values = {"name": name, "holder": holder, "expires_at": now + lease_s}
    with database.begin() as connection:
        row = connection.execute(select(leases).where(leases.c.name == name).with_for_update()).one_or_none()
        if row is None:
            return database.insert_new(connection, leases, values)
        if row.holder != holder and row.expires_at > now:
            return False
        connection.execute(update(leases).where(leases.c.name == name).values(values))
        return True


def release(database: Database, name: str, holder: str) -> None:
    """Give a lease back, if it is still this holder's."""
    with database.begin() as connection:
        connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def require(connection: Connection, name: str, holder: str) -> None:
    """Keep the lease from changing hands until this transaction ends.

    Raises:
        LeaseLost: it is not this holder's.
    """
    row = connection.execute(select(leases.c.holder).where(leases.c.name == name).with_for_update()).one_or_none()
    if row is None or row.holder != holder:
        raise LeaseLost(f"the lease {name!r} is not held by {holder!r} any more")
