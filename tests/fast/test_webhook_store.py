"""The outbox on SQLite."""

from tests.contract_store.webhooks import *  # noqa: F403 (tests, which pytest finds by their names here)
