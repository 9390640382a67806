"""The server, once per run, and an empty store of answers on it per test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("valkey", reason="no client for Valkey here; pip install 'frugal-serve[valkey]'")

from tests.valkey.server import ValkeyServer, program

if TYPE_CHECKING:
    from serve_app.store.valkey import ValkeyAnswers


@pytest.fixture(scope="session")
def server() -> Iterator[ValkeyServer]:
    if (found := program()) is None:
        pytest.skip("no Valkey or Redis server here; on Debian and Ubuntu: apt install redis-server")
    server = ValkeyServer(found)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def damaged() -> list[None]:
    """One item for each entry that the store threw away."""
    return []


@pytest.fixture
def store(server: ValkeyServer, damaged: list[None]) -> Iterator[ValkeyAnswers]:
    from serve_app.store.valkey import ValkeyAnswers

    with server.client() as client:
        client.flushall()
    store = ValkeyAnswers(server.url, 2.0, lambda: damaged.append(None))
    yield store
    store.close()
