"""The schema that the migrations make is the schema that the code uses; writers queue and readers do not wait."""

from __future__ import annotations

import pathlib
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from serve_app.store.database import Database
from serve_app.store.schema import leases, metadata


@pytest.mark.filterwarnings("ignore:.*expression-based index:Warning")  # SQLite cannot show those; test_article_store.py sees it used
def test_migrations_make_the_schema_that_the_code_uses(tmp_path: pathlib.Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/deep/er/frugal.db")
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_opening_it_again_keeps_what_was_stored(tmp_path: pathlib.Path) -> None:
    url = f"sqlite:///{tmp_path}/frugal.db"
    with Database(url).begin() as connection:
        connection.execute(leases.insert().values(name="feeds", holder="a", expires_at=1.0))
    with Database(url).read() as connection:
        assert [tuple(row) for row in connection.execute(select(leases))] == [("feeds", "a", 1.0)]


def test_a_block_that_raises_leaves_nothing(tmp_path: pathlib.Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/frugal.db")

    def write_and_raise() -> None:
        with database.begin() as connection:
            connection.execute(leases.insert().values(name="feeds", holder="a", expires_at=1.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_raise()
    with database.read() as connection:
        assert connection.execute(select(leases)).all() == []


def test_two_writers_queue_and_a_reader_sees_the_last_commit(tmp_path: pathlib.Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/frugal.db")
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
    with database.read() as connection:
        assert connection.execute(select(leases)).all() == []
    leave.set()
    first.join(10)
    second.join(10)
    with database.read() as connection:
        assert set(connection.scalars(select(leases.c.name))) == {"first", "after ['first']"}
