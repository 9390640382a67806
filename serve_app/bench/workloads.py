"""What a load test asks, encoded once so that the generator costs little while it runs. Pure.

    cached    one short question, again and again, after it was answered once     the cost of the way through the graph
    articles  real prose, each to be summarised, past the cache                   prefill and batching
    zipf      short questions, a few of them often and most of them seldom        what a cache is worth
    stream    short questions, streamed, past the cache, of forced length         TTFT, gaps between tokens, output tokens/s

Tests: tests/fast/test_bench_workloads.py.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.bench import prompts
from serve_app.bench.replies import Question

Name = Literal["cached", "articles", "zipf", "stream"]
PAST_THE_CACHE = {"cache-control": "no-cache, no-store"}


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for. None: the workload's own number. `cache` lets articles and stream use and fill the cache."""

    requests: int | None = None
    max_tokens: int | None = None
    distinct: int | None = None
    zipf_s: float = 1.0
    cache: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """`primes` are sent first, one after the other, and not measured; `told` goes into the JSON document."""

    name: Name
    primes: tuple[Question, ...]
    questions: tuple[Question, ...]
    headers: Mapping[str, str]
    told: Mapping[str, Any]


def build(name: Name, ask: Ask, model: str, salt: str, first: int = 0) -> Workload:
    """One workload. `salt` makes zipf's questions new to a cache; `first` is the number of the first question of articles and stream."""
    if name == "cached":
        return _cached(ask, model)
    if name == "zipf":
        return _zipf(ask, model, salt)
    prompt, num, max_tokens = (prompts.article, 32, 64) if name == "articles" else (prompts.short, 64, 64)
    num, max_tokens = ask.requests or num, ask.max_tokens or max_tokens
    make = _streamed if name == "stream" else _plain
    asked = [make(model, prompt(first + number), max_tokens) for number in range(num + 1)]
    headers = {} if ask.cache else PAST_THE_CACHE
    return Workload(name, (asked[-1],), tuple(asked[:-1]), headers, {"max_tokens": max_tokens, "cache": ask.cache})


def _cached(ask: Ask, model: str) -> Workload:
    num, max_tokens, distinct = ask.requests or 1000, ask.max_tokens or 16, ask.distinct or 1
    asked = [_plain(model, prompts.short(number), max_tokens) for number in range(distinct)]
    told = {"max_tokens": max_tokens, "distinct": distinct}
    return Workload("cached", tuple(asked), tuple(asked[number % distinct] for number in range(num)), {}, told)


def _zipf(ask: Ask, model: str, salt: str) -> Workload:
    """The question of rank r has the weight 1 / r^s, as in Breslau et al., "Web caching and Zipf-like distributions", 1999."""
    num, max_tokens, distinct = ask.requests or 2000, ask.max_tokens or 16, ask.distinct or 400
    asked = [_plain(model, prompts.short(number, salt), max_tokens) for number in range(distinct + 1)]
    weights = [1 / rank**ask.zipf_s for rank in range(1, distinct + 1)]
    drawn = random.Random(ask.seed).choices(range(distinct), weights, k=num)
    told = {
        "max_tokens": max_tokens,
        "distinct": distinct,
        "zipf_s": ask.zipf_s,
        "best_hit_ratio": 1 - len(set(drawn)) / num,  # every question's first time must be generated
    }
    return Workload("zipf", (asked[-1],), tuple(asked[number] for number in drawn), {}, told)


def _plain(model: str, prompt: str, max_tokens: int) -> Question:
    return Question(_body(model, prompt, max_tokens))


def _streamed(model: str, prompt: str, max_tokens: int) -> Question:
    body = _body(model, prompt, max_tokens, ignore_eos=True, stream=True, stream_options={"include_usage": True})
    return Question(body, stream=True, num_tokens=max_tokens)


def _body(model: str, prompt: str, max_tokens: int, **more: Any) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **more}).encode()
