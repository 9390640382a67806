"""The feeds loop over PostgreSQL."""

from tests.fast.test_feeds_loop import *  # noqa: F403 (tests, which pytest finds by their names here)
