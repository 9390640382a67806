"""The database on SQLite: the contract, and that its writers queue before they read."""

from __future__ import annotations

import threading

from sqlalchemy import select

from serve_app.store.database import Database
from serve_app.store.schema import leases
from tests.contract_store.database import *  # noqa: F403 (tests, which pytest finds by their names here)


def test_the_second_writer_reads_what_the_first_wrote(database: Database) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with database.begin() as connection:
            connection.execute(leases.insert().values(name="first", holder="a", expires_at=1.0))
            inside.set()
            leave.wait(10)

    def follow() -> None:
        with database.begin() as connection:
            names = list(connection.scalars(select(leases.c.name)))
            connection.execute(leases.insert().values(name=f"after {names}", holder="b", expires_at=1.0))

    first, second = threading.Thread(target=hold), threading.Thread(target=follow)
    first.start()
    assert inside.wait(10)
    second.start()
    leave.set()
    first.join(10)
    second.join(10)
    with database.read() as connection:
        assert set(connection.scalars(select(leases.c.name))) == {"first", "after ['first']"}
