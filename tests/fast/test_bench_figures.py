"""From samples to figures: exact percentiles, failures apart, and nothing invented where nothing came."""

from __future__ import annotations

import json
import random

import numpy
import pytest

from serve_app.bench.figures import figures, percentiles
from serve_app.bench.samples import Reply, Run, Sample, joined


def sample(latency_s: float, result: Reply | str | None = None, planned_at: float = 100.0, late_s: float = 0.0) -> Sample:
    return Sample(planned_at, planned_at + late_s, planned_at + latency_s, result or Reply(7, 2, "hit"))


@pytest.mark.parametrize("num", [2, 3, 10, 99, 100, 101, 1000])
def test_percentiles_are_numpys(num: int) -> None:
    values = [random.Random(num).expovariate(1.0) for _ in range(num)]
    assert list(percentiles(values).values()) == pytest.approx(numpy.percentile(values, [50, 95, 99]))


def test_one_value_is_every_percentile_and_no_value_is_none() -> None:
    assert percentiles([3.0]) == {50: 3.0, 95: 3.0, 99: 3.0}
    assert percentiles([]) == {}


def test_a_run_of_whole_answers_in_figures() -> None:
    run = Run([sample(0.010), sample(0.020, Reply(7, 4, "miss")), sample(0.030)], num_sent=3, wall_s=2.0, cpu_s=0.1)
    none = {f"{name}_p{percent}_ms": None for name in ("ttft", "itl", "tpot") for percent in (50, 95, 99)}
    assert figures(run) == {
        "requests": 3,
        "completed": 3,
        "errors": 0,
        "errors_by_kind": {},
        "dropped": 0,
        "unfinished": 0,
        "cut_short": False,
        "interrupted": False,
        "p50_ms": 20.0,
        "p95_ms": 29.0,
        "p99_ms": 29.8,
        "max_ms": 30.0,
        "late_p99_ms": 0.0,
        **none,
        "requests_per_s": 1.5,
        "output_tokens_per_s": 4.0,
        "output_tokens": 8,
        "prompt_tokens": 21,
        "outcomes": {"hit": 2, "miss": 1},
        "hit_ratio": pytest.approx(2 / 3),
        "wall_s": 2.0,
        "client_cpu_s": 0.1,
    }


def test_a_failure_is_counted_by_its_kind_and_has_no_latency() -> None:
    slow = [sample(60.0, "timeout"), sample(50.0, "timeout"), sample(0.001, "status_429")]
    found = figures(Run([sample(0.010), *slow], num_sent=6, num_dropped=2, wall_s=1.0))
    assert (found["requests"], found["completed"], found["errors"]) == (4, 1, 3)
    assert found["errors_by_kind"] == {"timeout": 2, "status_429": 1}
    assert (found["p50_ms"], found["p99_ms"], found["max_ms"]) == (10.0, 10.0, 10.0)
    assert (found["dropped"], found["unfinished"], found["requests_per_s"]) == (2, 2, 1.0)


def test_a_stream_has_a_first_text_gaps_and_a_time_per_further_token() -> None:
    streamed = Reply(7, 5, "bypass", text_at=(100.5, 100.6, 100.8))  # 5 tokens came as 3 texts
    found = figures(Run([sample(1.0, streamed)], num_sent=1, wall_s=1.0))
    assert (found["ttft_p50_ms"], found["itl_p50_ms"], found["tpot_p50_ms"]) == (500.0, 150.0, 75.0)


def test_how_late_the_generator_was_is_told() -> None:
    assert figures(Run([sample(1.0, late_s=0.2)], num_sent=1))["late_p99_ms"] == 200.0


def test_a_run_without_anything_is_null_and_still_json() -> None:
    found = json.loads(json.dumps(figures(Run())))
    assert {found[name] for name in ("p50_ms", "ttft_p50_ms", "requests_per_s", "output_tokens_per_s", "hit_ratio")} == {None}


def test_a_server_that_says_nothing_of_a_cache_has_no_hit_ratio() -> None:
    assert figures(Run([sample(1.0, Reply(7, 2))], num_sent=1))["hit_ratio"] is None


def test_runs_one_after_the_other_are_one() -> None:
    one, two = Run([sample(1.0)], 1, 0, 1.0, 0.5), Run([sample(2.0)], 2, 3, 4.0, 0.5, interrupted=True)
    assert joined([one, two]) == Run([sample(1.0), sample(2.0)], 3, 3, 5.0, 1.0, False, True)
