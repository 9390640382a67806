"""An SQLite file per test; tests/postgres/conftest.py has the same fixtures over a PostgreSQL server."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Iterator

import pytest


@pytest.fixture
def database_url(tmp_path: pathlib.Path) -> str:
    return f"sqlite:///{tmp_path}/frugal.db"


@pytest.fixture
def empty_url(tmp_path: pathlib.Path) -> str:
    """A database that does not exist yet, in a folder that does not, either."""
    return f"sqlite:///{tmp_path}/deep/er/frugal.db"


@pytest.fixture(scope="module")
def quick_gc() -> Iterator[None]:
    """For engines over transformers' continuous batching: it collects garbage at each stop, a second over all that tests have imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
