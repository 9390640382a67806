"""The database on PostgreSQL."""

from tests.contract_store.database import *  # noqa: F403 (tests, which pytest finds by their names here)
