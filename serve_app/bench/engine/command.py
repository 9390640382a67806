"""The measurement as a whole: workload after workload, each with its arms in turn, and the document (see the package's docstring).

Tests: tests/model/test_bench.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve_app.bench.engine import interference, steps
from serve_app.bench.engine.arms import ITL_METHOD, Bench, measure, slot_tokens
from serve_app.bench.engine.options import LOADS, Arm, Options
from serve_app.bench.engine.rounds import Result, medians, order, ratios, sized
from serve_app.bench.engine.workloads import EVERY, Workload, build
from serve_app.bench.machine import conditions

Say = Callable[[str], None]


def run(bench: Bench, options: Options, say: Say) -> dict[str, Any]:
    """The JSON document.

    Raises:
        FrugalError: a workload does not fit into the model's context or the machine's memory, or a request failed; with what to do.
    """
    card = bench.loaded.card
    workloads = [
        build(name, card.id, options.requests, options.max_tokens, options.priority) for name in LOADS if name in options.workloads
    ]
    for workload in workloads:
        slot_tokens(bench.loaded, workload)  # refused now rather than in half an hour
    document: dict[str, Any] = {
        "benchmark": "engine",
        "model": {name: getattr(card, name) for name in ("id", "quantization", "dtype", "device", "weights_bytes")},
        "conditions": {**conditions(), "itl_method": ITL_METHOD},
        "workloads": {},
        "ratios": {},
    }
    for workload in workloads:
        rounds = _rounds(bench, workload, options, document["conditions"], say)
        document["workloads"][workload.name] = _told(workload, rounds)
        document["ratios"][workload.name] = ratios(rounds)
    if "steps" in options.workloads:
        _add(document, "steps", steps.run(bench, options.rounds, say))
    if "interference" in options.workloads:
        _add(document, "interference", interference.run(bench, options.rounds, options.duration_s, say))
    return document


def _rounds(bench: Bench, workload: Workload, options: Options, conditions: dict[str, Any], say: Say) -> list[dict[Arm, Result]]:
    rounds: list[dict[Arm, Result]] = []
    for number in range(options.rounds):
        done: dict[Arm, Result] = {}
        for each in order(_arms(workload, options), rounds):
            arm = sized(each, done)
            done[arm], conditions["peak_rss_method"] = measure(bench, arm, workload)
            say(f"{workload.name}, round {number + 1} of {options.rounds}, {arm.name}: {done[arm].requests_per_s:.2f} requests/s")
        rounds.append(done)
    return rounds


def _arms(workload: Workload, options: Options) -> list[Arm]:
    """Plain calls know neither forced lengths nor a system prompt: they summarise articles."""
    return [arm for arm in options.arms if arm.kind != "plain" or workload.name == "articles"]


def _told(workload: Workload, rounds: list[dict[Arm, Result]]) -> dict[str, Any]:
    arms = []
    for arm, num_rounds, figures in medians(rounds):
        told = {"arm": arm.name, "engine": arm.engine, "batch_size": arm.batch_size, "rounds": num_rounds, **figures}
        arms.append(told | ({"articles_per_min": figures["requests_per_s"] * 60} if workload.name == "articles" else {}))
    return {
        "requests": len(workload.requests),
        "max_tokens": workload.max_tokens,
        "priority": workload.priority,
        "one_runs_every": EVERY,
        "arms": arms,
    }


def _add(document: dict[str, Any], name: str, part: dict[str, Any]) -> None:
    document["ratios"][name] = part.pop("ratios")
    document[name] = part
