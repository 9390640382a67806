"""Reruns on SQLite."""

from tests.contract_store.rerun import *  # noqa: F403 (tests, which pytest finds by their names here)
