"""One AnswerCache replica over PostgreSQL."""

from tests.fast.test_shard import *  # noqa: F403 (tests, which pytest finds by their names here)
