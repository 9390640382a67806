"""The texts of the store on SQLite."""

from tests.contract_store.texts import *  # noqa: F403 (tests, which pytest finds by their names here)
