"""The schema that the migrations make is the schema that the code uses; writers queue and readers do not wait."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.queues import Queue

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Float, inspect, select

from serve_app.store.database import Database
from serve_app.store.schema import leases, metadata

PROCESSES = 4


@pytest.mark.filterwarnings("ignore:.*expression-based index:Warning")  # SQLite cannot show those; tests/fast sees it used
def test_migrations_make_the_schema_that_the_code_uses(empty_url: str) -> None:
    database = Database(empty_url)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_times_and_sums_keep_all_their_digits(database: Database) -> None:
    found = [column["type"] for table in metadata.tables for column in inspect(database.engine).get_columns(table)]
    kinds = {str(kind) for kind in found if isinstance(kind, Float)}
    assert kinds == {"FLOAT"} if database.is_sqlite else {"DOUBLE PRECISION"}
    with database.begin() as connection:
        connection.execute(leases.insert().values(name="feeds", holder="a", expires_at=1_795_378_856.123_456_7))
    with database.read() as connection:
        assert connection.scalar(select(leases.c.expires_at)) == 1_795_378_856.123_456_7


def test_opening_it_again_keeps_what_was_stored(database_url: str) -> None:
    first = Database(database_url)
    with first.begin() as connection:
        connection.execute(leases.insert().values(name="feeds", holder="a", expires_at=1.0))
    first.close()
    again = Database(database_url)
    with again.read() as connection:
        assert [tuple(row) for row in connection.execute(select(leases))] == [("feeds", "a", 1.0)]
    again.close()


def open_and_say(url: str, start: threading.Barrier, said: Queue[str]) -> None:
    """In a child: open the database together with the others."""
    start.wait(60)
    try:
        Database(url).close()
        said.put("opened")
    except Exception as error:
        said.put(f"{type(error).__name__}: {error}")


def test_processes_that_open_a_new_database_at_once_migrate_it_once(empty_url: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start, said = context.Barrier(PROCESSES), context.Queue()
    children = [context.Process(target=open_and_say, args=(empty_url, start, said), daemon=True) for _ in range(PROCESSES)]
    for child in children:
        child.start()
    assert [said.get(timeout=60) for _ in children] == ["opened"] * PROCESSES
    for child in children:
        child.join(10)
    database = Database(empty_url)
    assert {*metadata.tables, "alembic_version"} == set(inspect(database.engine).get_table_names())
    database.close()


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    def write_and_raise() -> None:
        with database.begin() as connection:
            connection.execute(leases.insert().values(name="feeds", holder="a", expires_at=1.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_raise()
    with database.read() as connection:
        assert connection.execute(select(leases)).all() == []


def test_a_reader_does_not_wait_for_a_writer_and_sees_the_last_commit(database: Database) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with database.begin() as connection:
            connection.execute(leases.insert().values(name="first", holder="a", expires_at=1.0))
            inside.set()
            leave.wait(10)

    writer = threading.Thread(target=hold)
    writer.start()
    assert inside.wait(10)
    with database.read() as connection:
        assert connection.execute(select(leases)).all() == []
    leave.set()
    writer.join(10)
    with database.read() as connection:
        assert list(connection.scalars(select(leases.c.name))) == ["first"]
