"""One request at a time, static batches and slots, on the same prompts, in one process: what batching is worth on this machine.

The arms take turns (one round of each, then again), because the machine's speed drifts; each figure is the median of the rounds. A batch of
one is the static engine's, without company. Tests: tests/model/test_bench.py.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from serve_app.bench.machine import conditions
from serve_app.bench.prompts import article
from serve_app.messages import Failed, Finish, Generate, Message, Sampling
from serve_app.metrics import Metrics
from serve_app.model.continuous import TransformersEngine
from serve_app.model.engine import Engine, Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.loader import LoadedModel
from serve_app.model.paged import PagedBatching
from serve_app.model.runner import Runner
from serve_app.model.static import StaticEngine
from serve_app.settings import ModelTuning

Say = Callable[[str], None]
Kind = Literal["static", "slots", "transformers"]
SLOT_TOKENS = 1024  # of the benchmark: the articles and their summaries take half
PAGED_BYTES = 1_000_000_000  # of the transformers engine: as model.kv_cache_mb is by default

ARMS: tuple[tuple[Kind, int], ...] = (
    ("static", 1),
    ("static", 4),
    ("static", 8),
    ("static", 16),
    ("static", 32),
    ("slots", 16),
    ("slots", 32),
)
TRANSFORMERS_ARMS: tuple[tuple[Kind, int], ...] = (("transformers", 16), ("transformers", 32))


@dataclass(frozen=True, slots=True)
class Arm:
    """Medians over the rounds of one engine and batch size. `wasted_row_share`: rows computed after their end."""

    engine: Kind
    batch_size: int
    articles_per_min: float
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    ttft_p50_s: float
    wasted_row_share: float
    cached_token_share: float


def run(loaded: LoadedModel, arms: Sequence[tuple[Kind, int]], num_articles: int, max_tokens: int, rounds: int, say: Say) -> dict[str, Any]:
    """Measure every arm in every round; the JSON document."""
    prompts = [(Message("user", article(number)),) for number in range(num_articles)]
    results: dict[tuple[Kind, int], list[Arm]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for kind, size in arms:
            results[kind, size].append(asyncio.run(_measure(loaded, kind, size, prompts, max_tokens)))
            say(f"round {number + 1} of {rounds}, {kind} {size}: {results[kind, size][-1].articles_per_min:.1f} articles/min")
    medians = [_median(results[arm]) for arm in arms]
    return {
        "benchmark": "engine",
        "model": {name: getattr(loaded.card, name) for name in ("id", "quantization", "dtype", "device", "weights_bytes")},
        "workload": {"name": "articles", "articles": num_articles, "max_tokens": max_tokens, "rounds": rounds},
        "conditions": conditions(),
        "arms": [asdict(arm) for arm in medians],
        "ratios": {"articles": _ratios(medians)},
    }


def table(document: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{'engine':>12} {'rows':>5} {'articles/min':>13} {'prompt tok/s':>13} {'output tok/s':>13} {'TTFT p50':>9} {'wasted rows':>12}"
    ]
    for arm in document["arms"]:
        lines.append(
            f"{arm['engine']:>12} {arm['batch_size']:>5} {arm['articles_per_min']:>13.1f} {arm['prompt_tokens_per_s']:>13.0f} "
            f"{arm['completion_tokens_per_s']:>13.1f} {arm['ttft_p50_s']:>7.2f} s {arm['wasted_row_share']:>12.0%}"
        )
    ratios = document["ratios"]["articles"]
    words = {
        "static_vs_one": "static batches against one at a time",
        "slots_vs_static": "slots against static batches",
        "slots_vs_one": "slots against one",
    }
    told = [f"{words[name]} {ratios[name]:.2f}" for name in words if ratios.get(name)]
    return "\n".join([*lines, "articles/min at the best batch size: " + ", ".join(told)])


def _ratios(arms: Sequence[Arm]) -> dict[str, float | int | None]:
    """Each engine at its best batch size."""
    one = next((arm for arm in arms if arm.batch_size == 1), None)
    static, slots = (max((arm for arm in arms if arm.engine == kind), key=_speed, default=None) for kind in ("static", "slots"))
    return {
        "static_vs_one": _over(static, one),
        "slots_vs_static": _over(slots, static),
        "slots_vs_one": _over(slots, one),
        "best_static": static.batch_size if static else None,
        "best_slots": slots.batch_size if slots else None,
    }


def _speed(arm: Arm) -> float:
    return arm.articles_per_min


def _over(arm: Arm | None, other: Arm | None) -> float | None:
    return _speed(arm) / _speed(other) if arm and other else None


def _engine(loaded: LoadedModel, kind: Kind, tuning: ModelTuning) -> Engine:
    if kind == "static":
        return StaticEngine(loaded, tuning, Metrics())
    if kind == "transformers":
        return TransformersEngine(loaded, tuning, Metrics(), batching=PagedBatching(loaded, PAGED_BYTES))
    slot_tokens = min(SLOT_TOKENS, loaded.card.max_context, loaded.max_positions)
    return SlotsEngine(loaded, tuning, Metrics(), runner=Runner(loaded.model, tuning.max_batch_size, slot_tokens))


async def _measure(loaded: LoadedModel, kind: Kind, size: int, prompts: Sequence[tuple[Message, ...]], max_tokens: int) -> Arm:
    engine = _engine(loaded, kind, ModelTuning(max_batch_size=size, max_waiting=len(prompts)))
    sampling = Sampling(max_tokens=max_tokens)
    streams = [Stream(Generate(str(number), loaded.card.id, sampling, messages)) for number, messages in enumerate(prompts)]
    started = time.perf_counter()
    for admitted in engine.admit(streams):
        if isinstance(admitted, Exception):
            raise admitted
    endings = await asyncio.gather(*(_ending(stream) for stream in streams))
    seconds = time.perf_counter() - started
    account = engine.account()
    await asyncio.to_thread(engine.close, 0)
    num_prompt = sum(finish.usage.prompt_tokens for finish in endings)
    return Arm(
        kind,
        size,
        len(endings) / seconds * 60,
        num_prompt / seconds,
        sum(finish.usage.completion_tokens for finish in endings) / seconds,
        statistics.median(finish.ttft_s for finish in endings),
        account.wasted_rows / (account.rows + account.wasted_rows),
        sum(finish.usage.cached_tokens for finish in endings) / num_prompt,
    )


async def _ending(stream: Stream) -> Finish:
    async for item in stream:
        if isinstance(item, Failed):
            raise item.error
        if isinstance(item, Finish):
            return item
    raise AssertionError("a stream always ends")


def _median(rounds: Sequence[Arm]) -> Arm:
    names = [name for name in asdict(rounds[0]) if name not in ("engine", "batch_size")]
    return Arm(rounds[0].engine, rounds[0].batch_size, **{name: statistics.median(getattr(arm, name) for arm in rounds) for name in names})
