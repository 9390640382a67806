"""The lists of articles on PostgreSQL."""

from tests.contract_store.pages import *  # noqa: F403 (tests, which pytest finds by their names here)
