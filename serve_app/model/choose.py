"""The next token of each row from its logits: greedy rows all at once, the others each by its own sampler.

A row's draws depend on its own seed and logits alone, never on its company. Tests: tests/fast/test_inflight.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve_app.model.rows import Row
from serve_app.model.sampling import RowSampler, has_penalty


def choose(logits: Tensor, rows: Sequence[Row], eos_ids: Sequence[int]) -> list[int]:
    """One token for each row of `logits` [rows, vocabulary], which are fp32 and may be changed in place."""
    if not rows:
        return []
    with torch.inference_mode():  # as the runner, whose tensors may not be changed outside it
        for index, row in enumerate(rows):
            if _is_special(row):
                _apply(row, logits[index : index + 1], eos_ids)
        tokens: list[int] = logits.argmax(dim=-1).tolist()
    return tokens


def _is_special(row: Row) -> bool:
    sampling = row.stream.request.sampling
    return not sampling.greedy or has_penalty(sampling) or sampling.ignore_eos or row.num_generated < sampling.min_tokens


def _apply(row: Row, scores: Tensor, eos_ids: Sequence[int]) -> None:
    """Change the row's own scores so that their argmax is its choice."""
    if row.sampler is None:
        row.sampler = RowSampler([row.stream.request.sampling], [row.prompt_ids], eos_ids)
    last = torch.tensor([[row.last_token]], device=scores.device)
    scores.copy_(row.sampler(last, scores))
