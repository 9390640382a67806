"""One real program per run, on the sample feed and a feed of the test's own."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.ray.feed_server import FeedServer
from tests.ray.program import Program, config_of, free_port

MAX_IN_FLIGHT = 4
SUMMARY = {"max_tokens": 24}  # short ones, so that the ring does not take all day on two slow cores


@pytest.fixture(scope="session")
def feed_server() -> Iterator[FeedServer]:
    with FeedServer() as server:
        yield server


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory, feed_server: FeedServer) -> Iterator[Program]:
    folder: pathlib.Path = tmp_path_factory.mktemp("program")
    feeds = {
        "feeds": [{"url": "https://stripe.com/blog/feed.rss"}, {"url": "sample:"}],
        "allow_private_hosts": ["127.0.0.1"],
        "lease_s": 2.0,
        "max_in_flight": MAX_IN_FLIGHT,
        "summary": SUMMARY,
        "max_new_per_check": 200,
        "retry_base_s": 0.5,
    }
    program = Program(folder, config_of(free_port(), Feeds=feeds))
    program.start()
    yield program
    if program.processes():
        program.stop()
    program.kill_everything()
