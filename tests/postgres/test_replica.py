"""One Model replica over PostgreSQL."""

from tests.fast.test_replica import *  # noqa: F403 (tests, which pytest finds by their names here)
