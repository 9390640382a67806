"""`articles rerun` against the real routes: it says what it costs, asks, and only then does it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.messages_feeds import Rerun
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_http import served
from tests.fast.test_command_line import Server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    services = FakeServices()
    async with served(services) as url:
        yield Server(url, services)


async def test_without_a_yes_it_says_what_it_costs_and_does_nothing(server: Server) -> None:
    done = await server.run("articles", "rerun", "--feed", "feed0", "--prompt-not", "2")
    assert server.services.reruns == [(Rerun("feed0", prompt_version_not="2"), True)]
    assert done.stdout.splitlines() == [
        "3 articles, 5 calls of the model",
        "  1 of them have a summary of this prompt and model, free while its answer is stored",
        "  at the averages until now: 900 + 300 tokens, 12.5 compute-seconds, $0.000200 by usage",
    ]


async def test_with_yes_it_does_it(server: Server) -> None:
    done = await server.run("articles", "rerun", "a0", "a1", "--state", "failed", "--yes")
    chosen = Rerun(ids=("a0", "a1"), state="failed")
    assert server.services.reruns == [(chosen, True), (chosen, False)]
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "3 articles pending")


async def test_where_no_article_fits_nothing_is_asked(server: Server) -> None:
    server.services.preview = replace(server.services.preview, num_articles=0)
    done = await server.run("articles", "rerun", "--tag", "none", "--yes")
    assert (done.stdout, len(server.services.reruns)) == ("no article fits\n", 1)


async def test_programs_get_json(server: Server) -> None:
    done = await server.run("articles", "rerun", "--yes", "--json")
    assert [json.loads(line)["dry_run"] for line in done.stdout.splitlines()] == [True, False]
