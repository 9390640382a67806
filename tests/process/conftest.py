"""The same SQLite file per test as in tests/fast."""

from __future__ import annotations

from tests.fast.conftest import database_url, migrated

__all__ = ["database_url", "migrated"]
