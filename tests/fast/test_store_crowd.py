"""The store under many writers on SQLite."""

from tests.contract_store.crowd import *  # noqa: F403 (tests, which pytest finds by their names here)
