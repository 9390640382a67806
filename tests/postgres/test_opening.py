"""A database that cannot be used: one line says who, where, what and the remedy, and never the password."""

from __future__ import annotations

import logging
import pathlib
import threading
from typing import Any

import pytest
from sqlalchemy import select

from serve_app.cache.shard import AnswerShard
from serve_app.errors import DatabaseUnavailable
from serve_app.settings import AppSettings
from serve_app.store import postgres
from serve_app.store.database import Database
from serve_app.store.schema import leases
from tests.fast.fakes import FakeModel
from tests.postgres.server import PASSWORD, PostgresServer

START_OR_CORRECT = "; start it, or correct args.database_url (FRUGAL_DATABASE_URL wins)"


def refusal(url: str) -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        Database(url)
    message = caught.value.message
    assert (len(message.splitlines()), caught.value.__suppress_context__ or caught.value.__context__ is None, PASSWORD in message) == (
        1,
        True,
        False,
    )
    return message


def test_a_wrong_password(server: PostgresServer) -> None:
    message = refusal(server.url("migrated", password="wr0ng"))
    assert message.startswith(f"database postgresql://frugal@127.0.0.1:{server.port}/migrated: ")
    assert 'password authentication failed for user "frugal"' in message
    assert message.endswith(START_OR_CORRECT)
    assert "wr0ng" not in message


def test_a_database_that_does_not_exist(server: PostgresServer) -> None:
    assert 'database "nowhere" does not exist' in refusal(server.url("nowhere"))


def test_an_option_that_nobody_knows(server: PostgresServer) -> None:
    assert "colour" in refusal(server.url("migrated", query={"colour": "red"}))


def test_a_user_that_may_not_create_tables(server: PostgresServer, empty_url: str) -> None:
    server.sql(f"CREATE USER {(user := 'guest')} PASSWORD 'guest'")
    message = refusal(empty_url.replace("frugal:", f"{user}:").replace("p%40ss%2Fw%3Ard%2520", "guest"))
    assert message.endswith("permission denied for schema public; give this user the right to create tables there")


def test_a_database_that_cannot_hold_every_text(server: PostgresServer) -> None:
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    assert refusal(server.url("latin")).endswith("/latin: its encoding is LATIN1; create it with ENCODING 'UTF8' TEMPLATE template0")


def test_a_server_that_takes_no_writes(server: PostgresServer, database_url: str) -> None:
    server.sql(f"ALTER DATABASE {database_url.rsplit('/', 1)[1]} SET default_transaction_read_only = on")
    assert "read-only" in refusal(database_url)


async def test_a_replica_that_cannot_open_it_says_the_same(server: PostgresServer, tmp_path: pathlib.Path) -> None:
    model = FakeModel()
    app = AppSettings(data_dir=str(tmp_path), database_url=server.url("nowhere"))
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        AnswerShard(app, model.generate, model.fingerprint, model.promote)


def test_later_a_caller_is_told_to_come_back_and_the_log_has_the_cause(
    server: PostgresServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'frugal-serve'")
    with database.begin() as connection:  # the pool finds out by itself
        connection.execute(leases.insert().values(name="one", holder="a", expires_at=1.0))

    def end_it() -> None:
        with database.begin() as connection:
            connection.execute(leases.insert().values(name="two", holder="a", expires_at=1.0))
            server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'frugal-serve'")
            connection.execute(select(leases))

    with caplog.at_level(logging.WARNING), pytest.raises(DatabaseUnavailable) as caught:
        end_it()
    assert (caught.value.message, caught.value.status) == ("the database does not answer at the moment; try again shortly", 503)
    assert caught.value.retry_after_s == postgres.RETRY_S
    assert "terminating connection" in caplog.text
    assert PASSWORD not in caplog.text
    with database.read() as connection:
        assert list(connection.scalars(select(leases.c.name))) == ["one"]


def test_a_connection_that_died_while_it_sent_is_replaced(database: Database) -> None:
    """Such a one says that it is open and busy; the ping's error is then one about transactions."""
    database.close()
    with database.read() as connection:
        dead: Any = connection.connection.driver_connection
    assert dead is not None
    dead.pgconn.send_query(b"SELECT 1")
    with database.begin() as connection:
        connection.execute(leases.insert().values(name="one", holder="a", expires_at=1.0))
        assert connection.connection.driver_connection is not dead


def test_a_writer_that_stands_still_in_a_transaction_loses_it(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "SESSION", "SET idle_in_transaction_session_timeout = '50ms'")
    database.close()  # the next connection is a new one

    def stand_still() -> None:
        with database.begin() as connection:
            connection.execute(leases.insert().values(name="one", holder="a", expires_at=1.0))
            threading.Event().wait(0.5)
            connection.execute(select(leases))

    with pytest.raises(DatabaseUnavailable):
        stand_still()
    with database.read() as connection:
        assert connection.execute(select(leases)).all() == []


def test_one_that_waits_too_long_for_a_lock_is_told_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "SESSION", "SET lock_timeout = '50ms'")
    database.close()
    with database.begin() as connection:
        connection.execute(leases.insert().values(name="one", holder="a", expires_at=1.0))
        with pytest.raises(DatabaseUnavailable), database.begin() as other:
            other.execute(leases.insert().values(name="one", holder="b", expires_at=1.0))


def test_a_process_that_uses_all_its_connections_is_told_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)
    held = [database.engine.connect() for _ in range(postgres.MAX_CONNECTIONS)]
    with pytest.raises(DatabaseUnavailable, match="all connections to the database are in use"), database.read():
        pass
    for connection in held:
        connection.close()
