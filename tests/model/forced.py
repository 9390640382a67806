"""Logits of given continuations, token by token as in decoding: from transformers' own forward, and over slots."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

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


def slots_logits(runner: Runner, pairs: Many[Pair], chunk_tokens: int = 512) -> list[Tensor]:
    """Of rows that run together in one slot each: per pair fp32 [continuation, vocabulary]."""
    scheduler = Scheduler(runner.num_slots, runner.slot_tokens, Limits(chunk_tokens + len(pairs), chunk_tokens, len(pairs), 30.0))
    continuations = {}
    for number, (prompt, continuation) in enumerate(pairs):
        sequence = Sequence(number, prompt, len(continuation), "interactive", float(number))
        scheduler.add(sequence)
        continuations[sequence] = continuation
    steps: dict[Sequence, list[Tensor]] = {sequence: [] for sequence in continuations}
    with runner.attached():
        while scheduler.waiting or scheduler.running:
            step, _ = scheduler.plan(0.0)
            for sequence, logits in zip(step.yields, runner.run(step), strict=True):
                steps[sequence].append(logits)
            tokens = [continuations[sequence][len(sequence.token_ids)] for sequence in step.yields]
            over = [sequence for sequence in step.yields if len(sequence.token_ids) + 1 == sequence.max_tokens]
            scheduler.settle(step, tokens, over)
    return [torch.stack(logits) for logits in steps.values()]
