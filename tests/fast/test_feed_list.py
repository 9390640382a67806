"""The feeds' list on SQLite."""

from tests.contract_store.feed_list import *  # noqa: F403 (tests, which pytest finds by their names here)
