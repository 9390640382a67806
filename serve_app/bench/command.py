"""What `frugal-serve bench http` does with its options: find or start a server, load the engine where it is asked for, measure.

Tests: tests/fast/test_bench_http.py; against the real program: tests/ray/test_b_bench_http.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

from serve_app.bench.http import HttpBench, Load, Say
from serve_app.bench.own_server import OwnServerError, answers, own_server
from serve_app.bench.paired import engine_of
from serve_app.bench.table import table
from serve_app.bench.workloads import Ask, Name
from serve_app.client import DEFAULT_URL, ClientError
from serve_app.config_file import CheckedConfig
from serve_app.errors import ModelLoadError

__all__ = ["ERRORS", "bench_http", "exit_code", "mistake", "table"]

ERRORS = (ClientError, OwnServerError, ModelLoadError)
CLOSED, OPEN = 32, 256  # connections, where nothing is said

GOES_WITH = {"distinct": ("cached", "zipf"), "zipf_s": ("zipf",), "cache": ("articles", "stream")}


def mistake(names: Sequence[Name], given: Collection[str]) -> str | None:
    """What is wrong with the options that were written: one that would change nothing is refused rather than ignored."""
    for option, workloads in GOES_WITH.items():
        if option in given and not set(workloads) & set(names):
            return f"--{option.replace('_', '-')} goes with {' or '.join(workloads)}"
    if {"start", "url"} <= set(given):
        return "--start measures a server of its own, --url another one; leave one of them out"
    if "with_engine" in given and ("stream" not in names or "rate" in given):
        return "--engine goes with --workload stream and without --rate"
    if "rounds" in given and "with_engine" not in given:
        return "--rounds goes with --engine"
    return None


def bench_http(
    config: Callable[[], CheckedConfig],
    names: Sequence[Name],
    say: Say,
    *,
    url: str | None,
    start: bool,
    with_engine: bool,
    connections: int | None,
    rate: float | None,
    timeout_s: float,
    duration_s: float,
    rounds: int,
    requests: int | None,
    max_tokens: int | None,
    distinct: int | None,
    zipf_s: float,
    cache: bool,
    seed: int,
) -> dict[str, Any]:
    """The JSON document. `config` is read only where a server or an engine must be started.

    Raises:
        ClientError, OwnServerError, ModelLoadError: with what to do.
    """
    load = Load(connections or (CLOSED if rate is None else OPEN), rate, timeout_s, duration_s, rounds)
    ask = Ask(requests, max_tokens, distinct, zipf_s, cache, seed)
    with contextlib.ExitStack() as stack:
        if start or (url is None and not answers(DEFAULT_URL)):
            url = stack.enter_context(own_server(config(), say))
        engine = None
        if with_engine:
            engine = stack.enter_context(engine_of(config(), say))
        return HttpBench(url or DEFAULT_URL, load, ask, say, engine).run(tuple(names))


def exit_code(document: dict[str, Any]) -> int:
    """130 after Ctrl-C, 1 where a workload got errors only."""
    runs = document.get("runs", [document])
    if any(run["interrupted"] for run in runs):
        return 130
    return 1 if any(run["errors"] and not run["completed"] for run in runs) else 0
