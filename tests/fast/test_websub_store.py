"""The subscriptions on SQLite."""

from tests.contract_store.websub import *  # noqa: F403 (tests, which pytest finds by their names here)
