"""A whole benchmark against a tiny real server: the document for programs, the table for people, the exit code."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.__main__ import main
from tests.fast.fakes_bench import COUNTS, DONE, HELLO, STOP, WORLD, TinyServer

PERCENTILES = {f"{name}p{percent}_ms" for name in ("", "ttft_", "itl_", "tpot_") for percent in (50, 95, 99)}
RUN = PERCENTILES | {
    *(
        "workload",
        "connections",
        "rate",
        "seed",
        "max_tokens",
        "requests",
        "completed",
        "errors",
        "errors_by_kind",
        "dropped",
        "unfinished",
    ),
    *("cut_short", "interrupted", "max_ms", "late_p99_ms", "requests_per_s", "output_tokens_per_s", "output_tokens", "prompt_tokens"),
    *("outcomes", "hit_ratio", "wall_s", "client_cpu_s"),
}


@pytest.fixture
async def server() -> AsyncIterator[TinyServer]:
    async with TinyServer() as server:
        yield server


async def bench(server: TinyServer, *words: str) -> Result:
    environment = {"COLUMNS": "100", "FRUGAL_URL": server.url}
    return await asyncio.to_thread(CliRunner().invoke, main, ["bench", "http", *words], env=environment)


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


async def test_one_workload_is_one_document_alone_on_standard_output(server: TinyServer) -> None:
    result = await bench(server, "--requests", "20", "--connections", "4", "--json")
    assert (result.exit_code, result.stderr, len(result.stdout.splitlines())) == (0, "", 1)
    found = document(result)
    assert set(found) == RUN | {"benchmark", "distinct", "conditions"}
    assert {name: found[name] for name in ("benchmark", "workload", "connections", "rate", "requests", "completed", "errors")} == {
        "benchmark": "http",
        "workload": "cached",
        "connections": 4,
        "rate": None,
        "requests": 20,
        "completed": 20,
        "errors": 0,
    }
    assert (found["hit_ratio"], found["outcomes"], found["output_tokens"]) == (1.0, {"hit": 20}, 40)
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["client_cpu_s"] > 0
    assert found["conditions"]["server"]["version"] == "1.2.3"
    assert found["conditions"]["server"]["model"]["id"] == "tiny"
    assert {"cpu", "cores", "load_average", "python", "commit"} <= set(found["conditions"])
    assert len(server.asked) == 21  # the first one only fills the cache


async def test_people_get_a_table_and_the_document_below_it(server: TinyServer) -> None:
    server.behave = server.streams(HELLO, WORLD, STOP, COUNTS, DONE)
    result = await bench(server, "--workload", "stream", "--requests", "4", "--connections", "2", "--max-tokens", "2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["workload", "load", "requests", "errors"]
    assert lines[1].split()[:5] == ["stream", "2", "clients", "4", "0"]
    assert [line.split(" p50 ")[0] for line in lines[2:5]] == [
        "stream: first text",
        "stream: between two texts",
        "stream: per further token",
    ]
    assert "Frugal Serve 1.2.3, tiny (nf4, cpu)" in lines[5]
    assert document(result)["ttft_p50_ms"] > 0
    assert {headers["cache-control"] for headers in server.headers} == {"no-cache, no-store"}


async def test_several_workloads_are_runs_of_one_document(server: TinyServer) -> None:
    result = await bench(server, "--workload", "zipf", "--workload", "cached", "--workload", "zipf", "--requests", "10")
    found = document(result)
    assert set(found) == {"benchmark", "runs", "conditions"}
    assert [run["workload"] for run in found["runs"]] == ["zipf", "cached"]
    assert set(found["runs"][0]) >= RUN
    assert found["runs"][0]["zipf_s"] == 1.0


async def test_answers_that_are_no_hits_show_in_the_ratio(server: TinyServer) -> None:
    server.cache = "miss"
    assert document(await bench(server, "--requests", "10"))["hit_ratio"] == 0.0


async def test_an_open_loop_says_its_rate_and_what_it_dropped(server: TinyServer) -> None:
    server.behave = server.hangs
    result = await bench(server, "--requests", "20", "--rate", "2000", "--connections", "3", "--timeout", "0.2")
    found = document(result)
    assert (found["rate"], found["connections"], found["requests"], found["dropped"]) == (2000.0, 3, 3, 17)
    assert "17 arrivals found 3 requests in flight and were not sent; raise --connections" in result.stdout


async def test_errors_are_told_by_kind_and_end_with_1_where_there_is_nothing_else(server: TinyServer) -> None:
    server.behave = server.fails_with(429)
    result = await bench(server, "--requests", "6")
    found = document(result)
    assert (result.exit_code, found["errors"], found["errors_by_kind"], found["p50_ms"]) == (1, 6, {"status_429": 6}, None)
    assert "cached: errors: 6 status_429" in result.stdout
    assert "cached: the first request, which is not counted, failed: status_429" in result.stderr


async def test_some_errors_are_told_and_are_no_failure(server: TinyServer) -> None:
    answers, fails = server.answers, server.fails_with(500)
    server.behave = lambda request: fails(request) if len(server.asked) == 3 else answers(request)
    result = await bench(server, "--requests", "6", "--connections", "1")
    assert (result.exit_code, document(result)["errors_by_kind"], document(result)["completed"]) == (0, {"status_500": 1}, 5)


async def test_the_time_limit_ends_a_run_that_would_take_too_long(server: TinyServer) -> None:
    result = await bench(server, "--requests", "1000000", "--duration", "0.05")
    assert document(result)["cut_short"]
    assert "the time was over before every request was sent; raise --duration" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--start", "--url", "http://127.0.0.1:1"), "--start measures a server of its own"),
        (("--engine",), "--engine goes with --workload stream"),
        (("--engine", "--workload", "stream", "--rate", "5"), "--engine goes with --workload stream and without --rate"),
        (("--workload", "stream", "--distinct", "3"), "--distinct goes with cached or zipf"),
        (("--zipf-s", "2"), "--zipf-s goes with zipf"),
        (("--cache",), "--cache goes with articles or stream"),
        (("--workload", "stream", "--rounds", "5"), "--rounds goes with --engine"),
    ],
)
async def test_an_option_that_would_change_nothing_is_refused(server: TinyServer, words: tuple[str, ...], said: str) -> None:
    result = await bench(server, *words)
    assert (result.exit_code, server.asked) == (2, [])
    assert said in result.stderr


async def test_nobody_at_the_named_address_is_said_with_the_remedy(server: TinyServer) -> None:
    result = await bench(server, "--url", "http://127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("no server answers at http://127.0.0.1:9; start one with `frugal-serve serve`")


async def test_the_configuration_is_not_needed_where_a_server_runs(server: TinyServer, tmp_path: pathlib.Path) -> None:
    assert (await bench(server, str(tmp_path / "missing.yaml"), "--requests", "2")).exit_code == 0
