"""One database: an SQLAlchemy engine whose schema is brought up to date by Alembic migrations when it is opened.

SQLite runs in WAL mode, so that a reader never waits for the writer, with `synchronous=FULL`: what was committed survives a power cut.
Calls block: coroutines make them in a thread. Tests: tests/fast/test_database.py.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy
from filelock import FileLock
from sqlalchemy import Connection, event
from sqlalchemy.dialects import postgresql, sqlite

BUSY_TIMEOUT_S = 30  # a writer waits this long for another one


class Database:
    """Open the database at an SQLAlchemy `url`, creating folder, file and tables where they are missing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sqlalchemy.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._upgrade()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """One write transaction: committed at the end of the block, rolled back if it raises.

        On SQLite the write lock is taken at once, so that two writers queue instead of one of them failing half-way.
        """
        with self.engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading."""
        with self.engine.connect() as connection:
            yield connection

    def insert(self, table: sqlalchemy.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT, in this database's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    def _upgrade(self) -> None:
        config = alembic.config.Config()
        config.set_main_option("script_location", str(pathlib.Path(__file__).parent / "migrations"))
        if not self.is_sqlite:
            self._migrate(config)
            return
        path = pathlib.Path(self.engine.url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=BUSY_TIMEOUT_S):
            self._migrate(config)

    def _migrate(self, config: alembic.config.Config) -> None:
        with self.engine.begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7235417)")
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver opens no transactions of its own; _begin_sqlite does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_S * 1000}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
