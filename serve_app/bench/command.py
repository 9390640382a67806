"""What `frugal-serve bench http` and `bench cache` do with their options: find or start a server, load an engine if asked, measure.

Tests: tests/fast/test_bench_http.py, test_bench_cache.py; against the real program: tests/ray/test_b_bench_http.py.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from serve_app.bench.cache import CacheBench
from serve_app.bench.http import HttpBench, Load, Say
from serve_app.bench.own_server import OwnServerError, answers, own_server
from serve_app.bench.paired import engine_of
from serve_app.bench.table import cache_table, table
from serve_app.bench.workloads import Ask, Name
from serve_app.client import DEFAULT_URL, ClientError
from serve_app.config_file import CheckedConfig
from serve_app.errors import ModelLoadError

__all__ = ["ERRORS", "bench_cache", "bench_http", "cache_table", "exit_code", "mistake", "table"]

ERRORS = (ClientError, OwnServerError, ModelLoadError)
CLOSED, OPEN = 32, 256  # connections, where nothing is said

START_OR_URL = "--start measures a server of its own, --url another one; leave one of them out"
GOES_WITH = {"distinct": ("cached", "zipf"), "zipf_s": ("zipf",), "cache": ("articles", "stream")}


def mistake(names: Sequence[Name], given: Collection[str]) -> str | None:
    """What is wrong with the options that were written: one that would change nothing is refused rather than ignored."""
    for option, workloads in GOES_WITH.items():
        if option in given and not set(workloads) & set(names):
            return f"--{option.replace('_', '-')} goes with {' or '.join(workloads)}"
    if {"start", "url"} <= set(given):
        return START_OR_URL
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
        url = stack.enter_context(_server(config, say, url, start=start))
        engine = None
        if with_engine:
            engine = stack.enter_context(engine_of(config(), say))
        return HttpBench(url, load, ask, say, engine).run(tuple(names))


def bench_cache(
    config: Callable[[], CheckedConfig],
    say: Say,
    *,
    url: str | None,
    start: bool,
    connections: int,
    timeout_s: float,
    requests: int,
    max_tokens: int,
    keys: int,
    zipf_s: float,
    seed: int,
) -> dict[str, Any]:
    """The JSON document, as `bench_http`. There is no limit of time: an arm that it cut short would have had other questions.

    Raises:
        ClientError, OwnServerError: with what to do.
    """
    load = Load(connections, timeout_s=timeout_s, duration_s=math.inf)
    ask = Ask(requests, max_tokens, keys, zipf_s, seed=seed)
    with _server(config, say, url, start=start) as found:
        return CacheBench(found, load, ask, say).run()


@contextlib.contextmanager
def _server(config: Callable[[], CheckedConfig], say: Say, url: str | None, *, start: bool) -> Iterator[str]:
    """The address of the server to measure: one of its own where that is asked for, or where none is named and none runs."""
    if start or (url is None and not answers(DEFAULT_URL)):
        with own_server(config(), say) as own:
            yield own
    else:
        yield url or DEFAULT_URL


def exit_code(document: dict[str, Any]) -> int:
    """130 after Ctrl-C, 1 where a workload, or an arm of the cache's, got errors only."""
    runs = document.get("runs", [document])
    if any(run["interrupted"] for run in runs):
        return 130
    measured = [run[arm] for run in runs for arm in ("cached", "uncached") if arm in run] or runs
    return 1 if any(run["errors"] and not run["completed"] for run in measured) else 0
