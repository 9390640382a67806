"""The next token of each row of an in-flight batch from its logits.

A row's choice depends on its own settings, seed and logits alone, never on its company. Tests: tests/engine/test_inflight.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serve_app.model.raw import RawLogprobs
from serve_app.model.rows import Row, Scored
from serve_app.model.sampling import Chooser, adjust, drawn, is_plain


def choose(logits: Tensor, rows: Sequence[Row], eos_ids: Sequence[int]) -> tuple[list[int], list[Scored | None]]:
    """One token for each row of `logits` [rows, vocabulary], which are fp32 and may be changed in place, and the log-probabilities of the
    rows that ask for them."""
    if not rows:
        return [], []
    with torch.inference_mode():  # as the runner, whose tensors may not be changed outside it
        raw = RawLogprobs(logits, [row.stream.request.sampling for row in rows])
        choosers = [_chooser(row) for row in rows]
        adjust(logits, choosers, eos_ids)
        drawn_tokens = drawn(logits, choosers)
        tokens = [] if len(drawn_tokens) == len(rows) else best(logits)
        tokens = [drawn_tokens[row] if row in drawn_tokens else tokens[row] for row in range(len(rows))]
        return tokens, raw.of(tokens)


def best(logits: Tensor) -> list[int]:
    """The first of each row's highest ones in fp32. By numpy on a CPU: for 32 rows of 49,152 it takes 0.07 ms on one core, torch 0.9 ms."""
    tokens: list[int] = (logits.argmax(dim=-1) if logits.is_cuda else logits.numpy().argmax(-1)).tolist()
    return tokens


def _chooser(row: Row) -> Chooser | None:
    """The row's own, brought up to date; none where its logits alone decide."""
    sampling = row.stream.request.sampling
    if row.chooser is None:
        if is_plain(sampling, row.num_generated):
            return None
        row.chooser = Chooser(sampling, row.prompt_ids)
    chooser: Chooser = row.chooser
    if chooser.num_generated < row.num_generated:
        chooser.add(row.last_token)
    return chooser
