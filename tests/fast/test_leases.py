"""The leases on SQLite."""

from tests.contract_store.leases import *  # noqa: F403 (tests, which pytest finds by their names here)
