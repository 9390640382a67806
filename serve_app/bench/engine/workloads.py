"""What the engines are asked: the same requests for every arm and every run. Pure.

    articles   real prose, each to be summarised                                 prefill and decode in the product's own proportion
    skewed     short prompts, answers of forced and very different lengths       rows that end early: what a static batch wastes
    chat       a long system prompt shared by all, short different questions     a prefix that is there already

Tests: tests/engine/test_bench_engine.py; the numbers of tokens: tests/model/test_bench.py.
"""

from __future__ import annotations

import functools
import itertools
import random
from dataclasses import dataclass
from importlib import resources
from typing import Any

from serve_app.bench import prompts
from serve_app.bench.engine.options import Load
from serve_app.messages import Generate, Message, Priority, Sampling

REQUESTS = {"articles": 96, "skewed": 256, "chat": 128}
MAX_TOKENS = {"articles": 64, "skewed": 512, "chat": 64}
MEAN_TOKENS = 128  # of a skewed answer, before the longest are cut
SEED = 0
EVERY = 8  # of the requests, one at a time: with all of them that arm alone would take longer than the others together
TAIL = " Use plain words, and give one example from daily life."  # with it a short question is 46 to 52 tokens of the embedded model's


@dataclass(frozen=True, slots=True)
class Workload:
    """`max_tokens` is the most of one answer."""

    name: Load
    max_tokens: int
    priority: Priority
    requests: tuple[Generate, ...]

    @property
    def sample(self) -> tuple[Generate, ...]:
        """Every eighth request in the order of their lengths, for who serves one at a time: the mean length is about that of all."""
        ordered = sorted(self.requests, key=lambda request: request.sampling.max_tokens)
        return tuple(ordered[min(EVERY // 2, len(ordered) - 1) :: EVERY])


def build(name: Load, model: str, num: int | None = None, max_tokens: int | None = None, priority: Priority = "interactive") -> Workload:
    """`num` requests, and `max_tokens` of an answer (skewed cuts its lengths there); None is the workload's own number."""
    num, most = num or REQUESTS[name], max_tokens or MAX_TOKENS[name]
    samplings = (
        [Sampling(max_tokens=length, min_tokens=length, ignore_eos=True) for length in lengths(num, most)]
        if name == "skewed"
        else [Sampling(max_tokens=most)] * num
    )
    asked = tuple(
        Generate(f"{name}-{number}", model, sampling, _messages(name, number), priority=priority)
        for number, sampling in enumerate(samplings)
    )
    return Workload(name, most, priority, asked)


def lengths(num: int, most: int, seed: int = SEED) -> list[int]:
    """Exponential with a mean of MEAN_TOKENS, from 1 on and cut at `most`; the first ones are the same whatever `num` is."""
    draw = random.Random(seed)
    return [min(most, max(1, round(draw.expovariate(1 / MEAN_TOKENS)))) for _ in range(num)]


def prose_ids(tokenizer: Any, number: int, num_tokens: int) -> list[int]:
    """So many tokens of real prose; different numbers begin differently."""
    ids: list[int] = []
    for part in itertools.count():
        if len(ids) >= num_tokens:
            break
        ids += tokenizer.encode(prompts.prose(number + part), add_special_tokens=False)
    return ids[:num_tokens]


def _messages(name: Load, number: int) -> tuple[Message, ...]:
    if name == "articles":
        return (Message("user", prompts.article(number)),)
    if name == "skewed":
        return (Message("user", prompts.short(number) + TAIL),)
    return (_system(), Message("user", prompts.short(number)))


@functools.cache
def _system() -> Message:
    return Message("system", resources.files("serve_app.bench.engine").joinpath("system_prompt.txt").read_text("utf-8").strip())
