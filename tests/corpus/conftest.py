"""A database in an SQLite file per test, as in the fast ring."""

from __future__ import annotations

import pathlib

import pytest


@pytest.fixture
def database_url(tmp_path: pathlib.Path) -> str:
    return f"sqlite:///{tmp_path}/frugal.db"
