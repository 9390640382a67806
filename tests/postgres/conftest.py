"""The server, once per run, and a database per test, copied from one that was migrated once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from serve_app.store.database import Database
from tests.postgres.server import PostgresServer, binaries

MIGRATED = "migrated"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    if (programs := binaries()) is None:
        pytest.skip("no PostgreSQL server here; on Debian and Ubuntu: apt install postgresql")
    server = PostgresServer(programs)
    try:
        server.create()
        server.start()
        server.sql(f"CREATE DATABASE {MIGRATED}")
        Database(server.url(MIGRATED)).close()
        yield server
    finally:
        server.stop()


@pytest.fixture
def database_url(server: PostgresServer) -> str:
    name = f"test_{next(_numbers)}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE {MIGRATED}")
    return server.url(name)


@pytest.fixture
def empty_url(server: PostgresServer) -> str:
    """A database without any table."""
    name = f"test_{next(_numbers)}"
    server.sql(f"CREATE DATABASE {name}")
    return server.url(name)
