"""An SQLite file per test, copied from one that was migrated once. tests/postgres/conftest.py has the same fixtures over a server."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from serve_app.store.database import Database


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A file that was migrated once."""
    path = tmp_path_factory.mktemp("migrated") / "frugal.db"
    Database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def database_url(migrated: pathlib.Path, tmp_path: pathlib.Path) -> str:
    shutil.copy(migrated, tmp_path / "frugal.db")
    return f"sqlite:///{tmp_path}/frugal.db"


@pytest.fixture
def empty_url(tmp_path: pathlib.Path) -> str:
    """A database that does not exist yet, in a folder that does not, either."""
    return f"sqlite:///{tmp_path}/deep/er/frugal.db"
