"""One request at a time against static batches, on the same prompts, in one process: what batching is worth on this machine.

The arms take turns (one round of each, then again), because the machine's speed drifts; each figure is the median of the rounds.
Tests: tests/model/test_bench.py.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from serve_app.bench.machine import conditions
from serve_app.feeds.parse import Entry, parse
from serve_app.feeds.prompt import question
from serve_app.messages import Article, Failed, Finish, Generate, Message, Sampling
from serve_app.metrics import Metrics
from serve_app.model.engine import Stream
from serve_app.model.loader import LoadedModel
from serve_app.model.static import StaticEngine
from serve_app.settings import SAMPLE_FEED, ModelTuning, SummaryPrompt

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Arm:
    """Medians over the rounds of one batch size. `wasted_row_share`: rows computed after their end."""

    batch_size: int
    articles_per_min: float
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    ttft_p50_s: float
    wasted_row_share: float


def run(loaded: LoadedModel, batch_sizes: Sequence[int], num_articles: int, max_tokens: int, rounds: int, say: Say) -> dict[str, Any]:
    """Measure every batch size in every round; the JSON document."""
    prompts = list(itertools.islice(itertools.cycle(_prompts()), num_articles))
    results: dict[int, list[Arm]] = {size: [] for size in batch_sizes}
    for number in range(rounds):
        for size in batch_sizes:
            results[size].append(asyncio.run(_measure(loaded, size, prompts, max_tokens)))
            say(f"round {number + 1} of {rounds}, batch {size}: {results[size][-1].articles_per_min:.1f} articles/min")
    arms = [_median(results[size]) for size in batch_sizes]
    best = max(arms, key=lambda arm: arm.articles_per_min)
    return {
        "benchmark": "engine",
        "model": {name: getattr(loaded.card, name) for name in ("id", "quantization", "dtype", "device", "weights_bytes")},
        "workload": {"name": "articles", "articles": num_articles, "max_tokens": max_tokens, "rounds": rounds},
        "conditions": conditions(),
        "arms": [asdict(arm) for arm in arms],
        "ratios": {"articles": {"static_vs_one": best.articles_per_min / arms[0].articles_per_min, "best_batch_size": best.batch_size}},
    }


def table(document: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{'batch':>5} {'articles/min':>13} {'prompt tok/s':>13} {'output tok/s':>13} {'TTFT p50':>9} {'wasted rows':>12}"]
    for arm in document["arms"]:
        lines.append(
            f"{arm['batch_size']:>5} {arm['articles_per_min']:>13.1f} {arm['prompt_tokens_per_s']:>13.0f} "
            f"{arm['completion_tokens_per_s']:>13.1f} {arm['ttft_p50_s']:>7.2f} s {arm['wasted_row_share']:>12.0%}"
        )
    ratio = document["ratios"]["articles"]
    lines.append(f"batches of {ratio['best_batch_size']} do {ratio['static_vs_one']:.2f} times the articles of one at a time")
    return "\n".join(lines)


def _prompts() -> list[tuple[Message, ...]]:
    body = resources.files("serve_app.sample").joinpath("feed.xml").read_bytes()
    entries = parse(body, SAMPLE_FEED, "application/rss+xml").entries
    return [question(_article(entry), SummaryPrompt()) for entry in entries]


def _article(entry: Entry) -> Article:
    return Article(
        entry.guid, "", entry.guid, entry.link, entry.title, entry.author, None, 0.0, 0.0, entry.text, entry.text_hash, "pending"
    )


async def _measure(loaded: LoadedModel, batch_size: int, prompts: Sequence[tuple[Message, ...]], max_tokens: int) -> Arm:
    tuning = ModelTuning(max_batch_size=batch_size, max_waiting=len(prompts))
    engine = StaticEngine(loaded, tuning, Metrics())
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
    return Arm(
        batch_size,
        len(endings) / seconds * 60,
        sum(finish.usage.prompt_tokens for finish in endings) / seconds,
        sum(finish.usage.completion_tokens for finish in endings) / seconds,
        statistics.median(finish.ttft_s for finish in endings),
        account.wasted_rows / (account.rows + account.wasted_rows),
    )


async def _ending(stream: Stream) -> Finish:
    async for item in stream:
        if isinstance(item, Failed):
            raise item.error
        if isinstance(item, Finish):
            return item
    raise AssertionError("a stream always ends")


def _median(rounds: Sequence[Arm]) -> Arm:
    names = [name for name in asdict(rounds[0]) if name != "batch_size"]
    return Arm(rounds[0].batch_size, **{name: statistics.median(getattr(arm, name) for arm in rounds) for name in names})
