"""The article store on PostgreSQL."""

from tests.contract_store.articles import *  # noqa: F403 (tests, which pytest finds by their names here)
