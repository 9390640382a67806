"""Daily digests on SQLite."""

from tests.contract_store.daily import *  # noqa: F403 (tests, which pytest finds by their names here)
