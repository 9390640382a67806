"""What the answer cache is worth: the same questions through it and past it, in turn, against one running server.

The questions are those of the workload `zipf`, new to every cache at the beginning. Their sequence is cut into rounds, and in each of them
both arms get that part of it; the arm past the cache sends `no-cache, no-store`, so that what it does never shows in the other one's.
The gain is the quotient of the requests/s over all rounds. Tests: tests/fast/test_bench_cache.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import secrets
from collections.abc import Sequence
from typing import Any

from serve_app.bench.figures import figures, quotient
from serve_app.bench.http import Load, Say, describe, loop_factory, measure
from serve_app.bench.machine import conditions
from serve_app.bench.samples import Run, joined
from serve_app.bench.turns import Arm, Pair, take_turns
from serve_app.bench.workloads import PAST_THE_CACHE, Ask, Workload, build

ROUNDS = 4


class CacheBench:
    """One comparison on one server.

    Raises:
        ClientError: nobody answers there, or it is not ready.
    """

    def __init__(self, url: str, load: Load, ask: Ask, say: Say) -> None:
        self._url = url
        self._load = load
        self._ask = ask
        self._say = say
        self._server = describe(url)
        self._workload = build("zipf", ask, self._server["model"]["id"], secrets.token_hex(2))

    def run(self) -> dict[str, Any]:
        """The JSON document. Ctrl-C ends it early with the rounds that both arms had."""
        rounds = parts(self._workload, ROUNDS)
        self._say(f"measuring {self._url} with and without its cache; Ctrl-C ends it early and prints what there is")
        about = {"conditions": {**conditions(), "server": self._server, "url": self._url}}
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            pairs = runner.run(take_turns(self._arm(rounds, "cached"), self._arm(rounds, "uncached"), len(rounds)))
        load = {"requests": len(self._workload.questions), "connections": self._load.connections}
        told = {**load, **self._workload.told, "seed": self._ask.seed}
        return {"benchmark": "cache", **told, **compare(pairs), **about}

    def _arm(self, rounds: Sequence[Workload], name: str) -> Arm:
        headers = PAST_THE_CACHE if name == "uncached" else {}

        async def arm(number: int) -> Run:
            self._say(f"round {number + 1} of {len(rounds)}, {name}")
            workload = dataclasses.replace(rounds[number], headers=headers)
            return await measure(self._url, workload, self._load, self._ask.seed, self._say)

        return arm


def parts(workload: Workload, rounds: int) -> list[Workload]:
    """The same questions in the same order as at most so many workloads of about the same length."""
    num = len(workload.questions)
    ends = [num * number // min(rounds, num) for number in range(min(rounds, num) + 1)]
    return [dataclasses.replace(workload, questions=workload.questions[start:end]) for start, end in itertools.pairwise(ends)]


def compare(pairs: Sequence[Pair]) -> dict[str, Any]:
    """For the JSON document. Of each pair the first run is the one with the cache. Rounds that one arm did not end do not count."""
    ended = [pair for pair in pairs if not pair.interrupted]
    cached, uncached = figures(joined([pair.first for pair in ended])), figures(joined([pair.second for pair in ended]))
    each = [_rates(figures(pair.first), figures(pair.second)) for pair in ended]
    return {
        "hit_ratio": cached["hit_ratio"],
        **_rates(cached, uncached),
        "errors": cached["errors"] + uncached["errors"],
        "interrupted": len(ended) < len(pairs),
        "cached": cached,
        "uncached": uncached,
        "rounds": each,
    }


def _rates(cached: dict[str, Any], uncached: dict[str, Any]) -> dict[str, float | None]:
    of_cached, of_uncached = cached["requests_per_s"], uncached["requests_per_s"]
    return {"gain": quotient(of_cached, of_uncached), "cached_requests_per_s": of_cached, "uncached_requests_per_s": of_uncached}
