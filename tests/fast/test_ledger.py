"""The books on SQLite."""

from tests.contract_store.ledger import *  # noqa: F403 (tests, which pytest finds by their names here)
