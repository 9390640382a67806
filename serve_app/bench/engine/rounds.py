"""From the rounds of a workload to its figures: who runs again, medians, and ratios of rounds that both sides ran in. Pure.

Tests: tests/engine/test_bench_engine.py.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.bench.engine.options import Arm, Kind

RATIOS: dict[str, tuple[Kind, Kind]] = {
    "slots_vs_static": ("slots", "static"),
    "slots_vs_one": ("slots", "one"),
    "slots_vs_unguessed": ("slots", "unguessed"),
    "static_vs_one": ("static", "one"),
    "static_vs_plain": ("static", "plain"),
}
PLAIN_SIZE = 16  # where no static size ran


@dataclass(frozen=True, slots=True)
class Result:
    """One arm in one round. Tokens per second are of the whole arm's time. None: plain's calls cannot tell.

    `itl_p50_ms`, `itl_p95_ms`, `itl_p99_ms`: between two tokens of one answer. `wasted_row_share`: of the rows computed, those computed
    after their end. `cached_token_share`: of the prompts' tokens, those whose KV was there already. `peak_rss_bytes`: of this process.
    """

    requests: int
    seconds: float
    requests_per_s: float
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    ttft_p50_s: float | None = None
    itl_p50_ms: float | None = None
    itl_p95_ms: float | None = None
    itl_p99_ms: float | None = None
    wasted_row_share: float | None = None
    cached_token_share: float | None = None
    peak_rss_bytes: int = 0


Round = Mapping[Arm, Result]


def best(done: Round, kind: Kind) -> Arm | None:
    """The quickest size of that kind, None where none ran."""
    return max((arm for arm in done if arm.kind == kind), key=lambda arm: done[arm].requests_per_s, default=None)


def sized(arm: Arm, done: Round) -> Arm:
    """`plain` at the best static size so far; any other as it is."""
    if arm.batch_size:
        return arm
    found = best(done, "static")
    return Arm(arm.kind, found.batch_size if found else PLAIN_SIZE)


def order(arms: Sequence[Arm], rounds: Sequence[Round]) -> list[Arm]:
    """Who runs in the next round: all in the first, then the best of each kind, first to last and last to first in turn."""
    if not rounds:
        return list(arms)
    left = [arm for arm in rounds[0] if arm == best(rounds[0], arm.kind)]
    return left[::-1] if len(rounds) % 2 else left


def medians(rounds: Sequence[Round]) -> list[tuple[Arm, int, dict[str, Any]]]:
    """Each arm, the number of rounds that it ran in, and its figures' medians over them, in the order of the first round."""
    found = []
    for arm in rounds[0]:
        runs = [asdict(done[arm]) for done in rounds if arm in done]
        found.append((arm, len(runs), {name: median([run[name] for run in runs]) for name in runs[0]}))
    return found


def ratios(rounds: Sequence[Round]) -> dict[str, float | int | None]:
    """Each kind at its best size of the first round."""
    arms: dict[str, Arm | None] = {kind: best(rounds[0], kind) for kind in ("one", "static", "plain", "slots", "unguessed")}
    found: dict[str, float | int | None] = {name: _ratio(rounds, arms[mine], arms[other]) for name, (mine, other) in RATIOS.items()}
    for kind in ("static", "slots"):
        arm = arms[kind]
        found[f"best_{kind}"] = arm.batch_size if arm else None
    return found


def median(values: Sequence[float | int | None]) -> float | int | None:
    """Of those that are there; of whole numbers a whole one."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    found = statistics.median(there)
    return int(found) if all(isinstance(value, int) for value in there) else found


def _ratio(rounds: Sequence[Round], mine: Arm | None, other: Arm | None) -> float | None:
    both = [done for done in rounds if mine in done and other in done]
    if mine is None or other is None or not both:
        return None
    return statistics.median(done[mine].requests_per_s / done[other].requests_per_s for done in both)
