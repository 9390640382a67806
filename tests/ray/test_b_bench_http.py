"""The load generator against the real program: every request is answered, every repeated one from the cache. Says nothing about speed."""

from __future__ import annotations

import json
from typing import Any

from tests.ray.program import Program


def bench(program: Program, *words: str) -> dict[str, Any]:
    done = program.cli("bench", "http", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_cached_answers_are_all_hits_and_none_fails(program: Program) -> None:
    found = bench(program, "--workload", "cached", "--requests", "200", "--connections", "8", "--json")
    assert {name: found[name] for name in ("workload", "connections", "requests", "completed", "errors", "hit_ratio")} == {
        "workload": "cached",
        "connections": 8,
        "requests": 200,
        "completed": 200,
        "errors": 0,
        "hit_ratio": 1.0,
    }
    assert found["conditions"]["server"]["model"]["id"] == "smollm2-135m-instruct"


def test_streams_come_past_the_cache_in_the_forced_length_with_times(program: Program) -> None:
    found = bench(program, "--workload", "stream", "--requests", "6", "--connections", "3", "--max-tokens", "8")
    assert (found["completed"], found["errors_by_kind"], found["outcomes"]) == (6, {}, {"bypass": 6})
    assert found["output_tokens"] == 6 * 8
    assert 0 < found["ttft_p50_ms"] < found["p50_ms"]


def test_zipf_is_new_to_the_cache_and_then_hits_it(program: Program) -> None:
    words = ("--workload", "zipf", "--requests", "40", "--distinct", "4", "--max-tokens", "4", "--connections", "4")
    first, second = bench(program, *words), bench(program, *words)
    for found in (first, second):
        assert (found["errors"], found["outcomes"]["miss"]) == (0, round(40 * (1 - found["best_hit_ratio"])))
        assert found["outcomes"]["hit"] > 0
