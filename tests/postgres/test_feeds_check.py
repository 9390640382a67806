"""The checks of a feed over PostgreSQL."""

from tests.fast.test_feeds_check import *  # noqa: F403 (tests, which pytest finds by their names here)
