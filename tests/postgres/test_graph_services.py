"""What the routes need over PostgreSQL."""

from tests.fast.test_graph_services import *  # noqa: F403 (tests, which pytest finds by their names here)
