"""The cache's worth against a tiny real server that remembers what it was asked, and the arithmetic of the rounds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from serve_app.__main__ import main
from serve_app.bench.cache import compare, parts
from serve_app.bench.samples import Reply, Run, Sample
from serve_app.bench.turns import Pair
from serve_app.bench.workloads import PAST_THE_CACHE, Ask, build
from tests.fast.fakes_bench import TinyServer, whole


class Remembering(TinyServer):
    """Says miss for a question's first time and hit from then on, and bypass to who wants nothing from a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.behave = self.remembers
        self.known: set[str] = set()

    async def remembers(self, request: web.Request) -> web.StreamResponse:
        """A whole answer."""
        if request.headers.get("cache-control") == PAST_THE_CACHE["cache-control"]:
            return web.json_response(whole(), headers={"x-cache": "bypass"})
        body = await request.text()
        outcome = "hit" if body in self.known else "miss"
        self.known.add(body)
        return web.json_response(whole(), headers={"x-cache": outcome})

    def prompts(self, *, cached: bool) -> list[str]:
        """What one arm asked, in order."""
        both = zip(self.asked, self.headers, strict=True)
        return [body["messages"][0]["content"] for body, headers in both if ("cache-control" not in headers) is cached]


@pytest.fixture
async def server() -> AsyncIterator[Remembering]:
    async with Remembering() as server:
        yield server


async def bench(server: TinyServer, *words: str) -> Result:
    environment = {"COLUMNS": "100", "FRUGAL_URL": server.url}
    return await asyncio.to_thread(CliRunner().invoke, main, ["bench", "cache", *words], env=environment)


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


async def test_the_document_has_the_gain_the_hit_ratio_and_both_rates(server: Remembering) -> None:
    result = await bench(server, "--requests", "40", "--keys", "5", "--connections", "1", "--json")
    assert (result.exit_code, result.stderr, len(result.stdout.splitlines())) == (0, "", 1)
    found = document(result)
    asked = {"benchmark": "cache", "requests": 40, "connections": 1, "distinct": 5, "zipf_s": 1.0, "max_tokens": 16, "seed": 0, "errors": 0}
    assert {name: found[name] for name in asked} == asked
    assert found["gain"] == found["cached_requests_per_s"] / found["uncached_requests_per_s"]
    assert (found["hit_ratio"], found["best_hit_ratio"], found["interrupted"]) == (35 / 40, 35 / 40, False)
    assert (found["cached"]["outcomes"], found["uncached"]["outcomes"]) == ({"hit": 35, "miss": 5}, {"bypass": 40})
    for arm in ("cached", "uncached"):
        assert 0 < found[arm]["p50_ms"] <= found[arm]["p95_ms"] <= found[arm]["p99_ms"]
    assert [set(each) for each in found["rounds"]] == [{"gain", "cached_requests_per_s", "uncached_requests_per_s"}] * 4
    assert found["conditions"]["server"]["model"]["id"] == "tiny"


async def test_both_arms_ask_the_same_in_turn_and_no_run_what_another_asked(server: Remembering) -> None:
    for number in (1, 2):
        await bench(server, "--requests", "12", "--keys", "3", "--connections", "1", "--json")
        cached, uncached = server.prompts(cached=True), server.prompts(cached=False)
        assert cached == uncached
        assert len(cached) == number * (12 + 4)  # each of the four rounds begins with a question that is not counted
    assert set(cached[:16]) & set(cached[16:]) == set()
    order = "".join("-" if "cache-control" in headers else "c" for headers in server.headers[:32])
    assert order == "cccc--------cccccccc--------cccc"


async def test_joins_are_reused_answers_too(server: Remembering) -> None:
    server.behave, server.cache = server.answers, "join"
    assert document(await bench(server, "--requests", "8", "--keys", "2"))["hit_ratio"] == 1.0


async def test_people_get_a_line_per_arm_and_the_gain(server: Remembering) -> None:
    result = await bench(server, "--requests", "20", "--keys", "5", "--connections", "1")
    lines = result.stdout.splitlines()
    assert [line.split()[:5] for line in lines[1:3]] == [["cached", "1", "clients", "20", "0"], ["uncached", "1", "clients", "20", "0"]]
    assert lines[4].startswith("gain: ")
    assert lines[4].endswith("75% of the answers reused (at most 75% were asked before)")
    assert document(result)["gain"] > 0


async def test_an_arm_of_errors_only_has_no_gain_and_ends_with_1(server: Remembering) -> None:
    remembers, fails = server.remembers, server.fails_with(503)
    server.behave = lambda request: fails(request) if "cache-control" in request.headers else remembers(request)
    result = await bench(server, "--requests", "8", "--keys", "2")
    found = document(result)
    assert (result.exit_code, found["gain"], found["errors"], found["uncached"]["errors_by_kind"]) == (1, None, 8, {"status_503": 8})
    assert "uncached: errors: 8 status_503" in result.stdout


async def test_two_servers_at_once_are_refused(server: Remembering) -> None:
    result = await bench(server, "--start", "--url", server.url)
    assert (result.exit_code, server.asked) == (2, [])
    assert "--start measures a server of its own" in result.stderr


@pytest.mark.parametrize(("num", "lengths"), [(1, [1]), (3, [1, 1, 1]), (4, [1, 1, 1, 1]), (10, [2, 3, 2, 3])])
def test_the_rounds_are_the_sequence_in_order(num: int, lengths: list[int]) -> None:
    workload = build("zipf", Ask(requests=num, distinct=50), "tiny", "ab")
    rounds = parts(workload, 4)
    assert [len(part.questions) for part in rounds] == lengths
    assert tuple(question for part in rounds for question in part.questions) == workload.questions


def run(num: int, wall_s: float, outcome: str) -> Run:
    return Run([Sample(0.0, 0.0, 1.0, Reply(7, 2, outcome)) for _ in range(num)], num_sent=num, wall_s=wall_s)


def test_the_gain_is_that_of_all_whole_rounds_together() -> None:
    pairs = [Pair(run(10, 1.0, "hit"), run(10, 4.0, "bypass")), Pair(run(10, 1.0, "similar"), run(10, 8.0, "bypass"))]
    found = compare([*pairs, Pair(run(3, 0.1, "hit"), Run(interrupted=True))])
    assert [each["gain"] for each in found["rounds"]] == [4.0, 8.0]
    assert (found["cached_requests_per_s"], found["uncached_requests_per_s"], found["gain"]) == (10.0, 1.667, 10.0 / 1.667)
    assert (found["hit_ratio"], found["interrupted"]) == (1.0, True)


def test_without_a_whole_round_there_is_no_figure() -> None:
    found = compare([Pair(Run(interrupted=True), Run(interrupted=True))])
    assert {found[name] for name in ("gain", "hit_ratio", "cached_requests_per_s", "uncached_requests_per_s")} == {None}
    assert (found["interrupted"], found["rounds"]) == (True, [])
