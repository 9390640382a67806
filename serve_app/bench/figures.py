"""From samples to figures: exact percentiles over all of them, failures counted by kind and never mixed into a latency. Pure.

Tests: tests/fast/test_bench_figures.py.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from serve_app.bench.samples import Reply, Run, Sample
from serve_app.messages import REUSED

PERCENTS = (50, 95, 99)


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """p50, p95 and p99, interpolated between neighbours as numpy does by default; empty where there are no values."""
    if len(values) < 2:
        return dict.fromkeys(PERCENTS, values[0]) if values else {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {percent: cuts[percent - 1] for percent in PERCENTS}


def figures(run: Run) -> dict[str, Any]:
    """What is measured, for the JSON document. Times are null where nothing came; `itl` are the gaps between two pieces of text of one
    answer, `tpot` an answer's time from its first to its last text per further token, `late` how late the generator itself sent, and
    `hit_ratio` the share of the answers that were not generated anew, as in the report."""
    good = [(sample, sample.result) for sample in run.samples if isinstance(sample.result, Reply)]
    kinds = Counter(sample.result for sample in run.samples if isinstance(sample.result, str))
    streamed = [(sample, reply) for sample, reply in good if reply.text_at]
    outcomes = Counter(reply.cache for _, reply in good if reply.cache is not None)
    tokens = sum(reply.completion_tokens for _, reply in good)
    return {
        "requests": len(run.samples),
        "completed": len(good),
        "errors": kinds.total(),
        "errors_by_kind": dict(kinds.most_common()),
        "dropped": run.num_dropped,
        "unfinished": run.num_outstanding,
        "cut_short": run.cut_short,
        "interrupted": run.interrupted,
        **_spread("", [sample.ended_at - sample.planned_at for sample, _ in good]),
        "max_ms": _ms(max((sample.ended_at - sample.planned_at for sample, _ in good), default=None)),
        **_spread("ttft_", [reply.text_at[0] - sample.planned_at for sample, reply in streamed]),
        **_spread("itl_", [gap for _, reply in streamed for gap in _gaps(reply)]),
        **_spread("tpot_", [_per_token(reply) for _, reply in streamed if reply.completion_tokens > 1]),
        **_late(run.samples),
        "requests_per_s": round(len(good) / run.wall_s, 3) if run.wall_s else None,
        "output_tokens_per_s": round(tokens / run.wall_s, 3) if run.wall_s else None,
        "output_tokens": tokens,
        "prompt_tokens": sum(reply.prompt_tokens for _, reply in good),
        "outcomes": dict(outcomes.most_common()),
        "hit_ratio": sum(outcomes[outcome] for outcome in REUSED) / outcomes.total() if outcomes else None,
        "wall_s": round(run.wall_s, 4),
        "client_cpu_s": round(run.cpu_s, 4),
    }


def quotient(value: float | None, other: float | None) -> float | None:
    """How many times the other one a figure is; None where one was not measured."""
    return value / other if value is not None and other else None


def _gaps(reply: Reply) -> list[float]:
    return [after - before for before, after in itertools.pairwise(reply.text_at)]


def _per_token(reply: Reply) -> float:
    return (reply.text_at[-1] - reply.text_at[0]) / (reply.completion_tokens - 1)


def _late(samples: Sequence[Sample]) -> dict[str, float | None]:
    late = percentiles([sample.sent_at - sample.planned_at for sample in samples])
    return {"late_p99_ms": _ms(late.get(99))}


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    found = percentiles(seconds)
    return {f"{name}p{percent}_ms": _ms(found.get(percent)) for percent in PERCENTS}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
