"""Logits of given continuations, token by token as in decoding: from transformers' own forward, and over slots."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from serve_app.model.lookup import Lookup
from serve_app.model.runner import Runner
from serve_app.model.scheduler import Limits, Scheduler, Sequence

Pair = tuple[list[int], list[int]]  # a prompt, and the tokens that follow it


def own_logits(model: Any, pairs: Many[Pair], pad_id: int) -> list[Tensor]:
    """Of one batch, padded on the left as `generate` does: per pair fp32 [continuation, vocabulary]. Continuations are equally long."""
    longest = max(len(prompt) for prompt, _ in pairs)
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + prompt for prompt, _ in pairs])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in pairs])
    forced = torch.tensor([continuation for _, continuation in pairs])
    cache, steps = DynamicCache(config=model.config), []
    with torch.inference_mode():
        for step in range(forced.shape[1]):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1)
            steps.append(out.logits[:, -1].float())
            ids = forced[:, step : step + 1]
            mask = torch.cat((mask, torch.ones_like(ids)), -1)
    return list(torch.stack(steps, 1))


class Told(Lookup):
    """Guesses that are right: a number of tokens that changes from step to step."""

    def __init__(self, continuation: list[int]) -> None:
        super().__init__(())
        self._left = list(continuation)

    def extend(self, token_ids: Iterable[int]) -> None:
        for _ in token_ids:
            del self._left[0]

    def guess(self, most: int, price: float) -> tuple[int, ...]:
        return tuple(self._left[: min(most, len(self._left) % 4)])


def slots_logits(runner: Runner, pairs: Many[Pair], chunk_tokens: int = 512, max_guesses: int = 0) -> list[Tensor]:
    """Of rows that run together in one slot each: per pair fp32 [continuation, vocabulary]. With guesses, several of a row in a step."""
    limits = Limits(chunk_tokens + len(pairs), chunk_tokens, len(pairs), 30.0, max_guesses=max_guesses)
    scheduler = Scheduler(runner.num_slots, runner.slot_tokens, limits)
    continuations = {}
    for number, (prompt, continuation) in enumerate(pairs):
        sequence = Sequence(number, prompt, len(continuation), "interactive", float(number))
        sequence.lookup = Told(continuation)
        scheduler.add(sequence)
        continuations[sequence] = continuation
    steps: dict[Sequence, list[Tensor]] = {sequence: [] for sequence in continuations}
    with runner.attached():
        while scheduler.waiting or scheduler.running:
            step, _ = scheduler.plan(0.0)
            numbers = [1 + len(step.guesses.get(sequence, ())) for sequence in step.yields]
            tokens = []
            for sequence, logits in zip(step.yields, runner.run(step).float().split(numbers), strict=True):
                steps[sequence] += logits
                tokens.append(continuations[sequence][len(sequence.token_ids) :][: len(logits)])
            over = [sequence for sequence in step.yields if len(steps[sequence]) == sequence.max_tokens]
            scheduler.settle(step, tokens, over)
    return [torch.stack(logits) for logits in steps.values()]
