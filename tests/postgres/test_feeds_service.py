"""One Feeds replica over PostgreSQL."""

from tests.fast.test_feeds_service import *  # noqa: F403 (tests, which pytest finds by their names here)
