"""The feeds' list on PostgreSQL."""

from tests.contract_store.feed_list import *  # noqa: F403 (tests, which pytest finds by their names here)
