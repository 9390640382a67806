"""Questions and trials of the similarity lookup on PostgreSQL."""

from tests.contract_store.similar import *  # noqa: F403 (tests, which pytest finds by their names here)
