"""The store under many writers on PostgreSQL."""

from tests.contract_store.crowd import *  # noqa: F403 (tests, which pytest finds by their names here)
