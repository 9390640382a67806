"""What an older version stored, on PostgreSQL."""

from tests.contract_store.migrations import *  # noqa: F403 (tests, which pytest finds by their names here)
