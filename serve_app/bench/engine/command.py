"""The measurement as a whole: workload after workload, each with its arms in turn, and the document (see the package's docstring).

Tests: tests/model/test_bench.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve_app.bench.engine import interference, steps
from serve_app.bench.engine.arms import ITL_METHOD, Bench, measure, slot_tokens
from serve_app.bench.engine.options import LOADS, Arm, Options, arms_for
from serve_app.bench.engine.rounds import Result, medians, order, ratios, sized
from serve_app.bench.engine.workloads import EVERY, Workload, build
from serve_app.bench.machine import conditions
from serve_app.errors import ModelLoadError

Say = Callable[[str], None]


def run(bench: Bench, options: Options, say: Say) -> dict[str, Any]:
    """The JSON document.

    Raises:
        FrugalError: a workload does not fit into the model's context or the machine's memory, or a request failed; with what to do.
    """
    card = bench.loaded.card
    workloads = [
        build(name, card.id, options.requests, options.max_tokens, options.priority)
        for name in LOADS
        if name in options.workloads and arms_for(name, options.arms)
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
        turns = _Turns(bench, workload, options, say)
        document["workloads"][workload.name] = turns.run()
        document["ratios"][workload.name] = ratios(turns.rounds)
        document["conditions"]["peak_rss_method"] = turns.memory_method
    if "steps" in options.workloads:
        _add(document, "steps", steps.run(bench, options.rounds, say))
    if "interference" in options.workloads:
        _add(document, "interference", interference.run(bench, options.rounds, options.duration_s, say))
    return document


class _Turns:
    """The rounds of one workload."""

    def __init__(self, bench: Bench, workload: Workload, options: Options, say: Say) -> None:
        self.rounds: list[dict[Arm, Result]] = []
        self.memory_method = ""
        self._bench, self._workload, self._say = bench, workload, say
        self._arms, self._num_rounds = arms_for(workload.name, options.arms), options.rounds
        self._skipped: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """All of them; the workload's part of the document."""
        while len(self.rounds) < self._num_rounds:
            done: dict[Arm, Result] = {}
            for each in order(self._arms, self.rounds):
                self._one(sized(each, done), done)
            self.rounds.append(done)
        workload = self._workload
        return {
            "requests": len(workload.requests),
            "max_tokens": workload.max_tokens,
            "priority": workload.priority,
            "one_runs_every": EVERY,
            "skipped": self._skipped,
            "arms": [self._told(*found) for found in medians(self.rounds)],
        }

    def _one(self, arm: Arm, done: dict[Arm, Result]) -> None:
        name = f"{self._workload.name}, round {len(self.rounds) + 1} of {self._num_rounds}, {arm.name}"
        try:
            done[arm], self.memory_method = measure(self._bench, arm, self._workload)
        except ModelLoadError as error:  # more slots than fit into memory must not cost the other arms their figures
            self._skipped[arm.name] = error.message
            self._say(f"{name}: skipped: {error.message}")
            return
        self._say(f"{name}: {done[arm].requests_per_s:.2f} requests/s")

    def _told(self, arm: Arm, num_rounds: int, figures: dict[str, Any]) -> dict[str, Any]:
        told = {"arm": arm.name, "engine": arm.engine, "batch_size": arm.batch_size, "rounds": num_rounds, **figures}
        return told | ({"articles_per_min": figures["requests_per_s"] * 60} if self._workload.name == "articles" else {})


def _add(document: dict[str, Any], name: str, part: dict[str, Any]) -> None:
    document["ratios"][name] = part.pop("ratios")
    document[name] = part
