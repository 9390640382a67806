"""One holder at a time may write, and a holder that was overtaken finds out before it writes."""

from __future__ import annotations

import pytest

from serve_app.store import leases
from serve_app.store.database import Database


def test_a_lease_is_renewed_by_its_holder_and_taken_over_only_when_expired(database: Database) -> None:
    assert leases.acquire(database, "feeds", "a", 100.0, 10.0)
    assert not leases.acquire(database, "feeds", "b", 109.9, 10.0)
    assert leases.acquire(database, "feeds", "a", 109.9, 10.0)
    assert not leases.acquire(database, "feeds", "b", 119.8, 10.0)
    assert leases.acquire(database, "feeds", "b", 119.9, 10.0)
    assert not leases.acquire(database, "feeds", "a", 120.0, 10.0)
    assert leases.acquire(database, "other", "a", 120.0, 10.0)


def test_a_released_lease_is_free_at_once_and_only_its_holder_releases_it(database: Database) -> None:
    assert leases.acquire(database, "feeds", "a", 100.0, 10.0)
    leases.release(database, "feeds", "b")
    assert not leases.acquire(database, "feeds", "b", 101.0, 10.0)
    leases.release(database, "feeds", "a")
    assert leases.acquire(database, "feeds", "b", 101.0, 10.0)


@pytest.mark.parametrize("holder", ["a", "nobody"])
def test_who_does_not_hold_the_lease_is_told_in_the_transaction(database: Database, holder: str) -> None:
    assert leases.acquire(database, "feeds", "a", 100.0, 10.0)
    assert leases.acquire(database, "feeds", "b", 110.0, 10.0)
    with database.begin() as connection:
        leases.require(connection, "feeds", "b")
        with pytest.raises(leases.LeaseLost, match=f"not held by '{holder}'"):
            leases.require(connection, "feeds", holder)
