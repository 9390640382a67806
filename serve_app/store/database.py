"""One database: an SQLAlchemy engine whose schema is brought up to date by Alembic migrations when it is opened.

SQLite runs in WAL mode, so that a reader never waits for the writer, with `synchronous=FULL`: what was committed survives a power cut.
PostgreSQL is in postgres.py. Where SQLite lets one writer in at a time, PostgreSQL lets all in: a method that reads what it then writes
locks those rows (`with_for_update`), in the order lease, feed, articles. Calls block: coroutines make them in a thread.
Tests: tests/contract_store/database.py.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite

from serve_app.store import postgres

BUSY_TIMEOUT_S = 30  # a writer waits this long for another one


class Database:
    """Open the database at an SQLAlchemy `url`, creating what is missing: tables, and of an SQLite one the folder and the file.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be reached or used; one line says who, where and what to do.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self.engine = _sqlite_engine(url) if self.is_sqlite else postgres.make_engine(url)
        self._upgrade()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """One write transaction: committed at the end of the block, rolled back if it raises.

        On SQLite the write lock is taken at once, so that two writers queue instead of one of them failing half-way.

        Raises:
            DatabaseUnavailable: PostgreSQL is not there. Where it went during the commit, the block is stored whole or not at all, and
                nobody can say which.
        """
        with self._answering(), self.engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading.

        Raises:
            DatabaseUnavailable: PostgreSQL is not there.
        """
        with self._answering(), self.engine.connect() as connection:
            yield connection

    def insert(self, table: sqlalchemy.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT, in this database's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def insert_new(self, connection: Connection, table: sqlalchemy.Table, values: dict[str, Any]) -> bool:
        """Insert a row; False where one with such a key is there already."""
        # Without the option SQLAlchemy keeps the count of an INSERT on SQLite only, and gives -1 on PostgreSQL.
        insert = self.insert(table).values(values).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        return connection.execute(insert).rowcount == 1

    def lock(self, connection: Connection, what: str) -> None:
        """Let one transaction at a time do this. On SQLite, whose writers queue anyhow, there is nothing to do."""
        if not self.is_sqlite:
            postgres.lock(connection, what)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    def _answering(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.is_sqlite else postgres.answering(self.url)

    def _upgrade(self) -> None:
        if not self.is_sqlite:
            with postgres.opening(self.url), self.engine.begin() as connection:
                postgres.check_encoding(connection)
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another replica's migration may take its time
                postgres.lock(connection, "migrate")
                _migrate(connection)
            return
        path = pathlib.Path(self.engine.url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=BUSY_TIMEOUT_S), self.engine.begin() as connection:
            _migrate(connection)


def _migrate(connection: Connection) -> None:
    if MigrationContext.configure(connection).get_current_revision() == _newest():
        return
    config = _alembic_config()
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


@functools.cache
def _newest() -> str | None:
    head: str | None = ScriptDirectory.from_config(_alembic_config()).get_current_head()
    return head


def _alembic_config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(pathlib.Path(__file__).parent / "migrations"))
    return config


def _sqlite_engine(url: str) -> Engine:
    engine = sqlalchemy.create_engine(url)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver opens no transactions of its own; _begin_sqlite does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_S * 1000}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
