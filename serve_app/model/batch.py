"""One static batch: left padding, `generate`, and the settling of its rows after every step.

`generate` sees a greedy search without an end-of-sequence token: tokens are chosen in sampling.py and endings decided in rows.py, because
generate's own criterion would end a row that ignores it. Tests: tests/engine/test_engine.py and tests/model/test_static.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from serve_app.errors import Cancelled
from serve_app.model.books import Books
from serve_app.model.loader import LoadedModel
from serve_app.model.rows import Row, Scored
from serve_app.model.sampling import RowSampler
from serve_app.model.threaded import STOPPING


def run_batch(loaded: LoadedModel, rows: Sequence[Row], books: Books, after_step: Callable[[], None], abandoned: threading.Event) -> None:
    """Generate until every row has ended, or raise what the model raised."""
    books.batch(rows)
    ids, mask = _left_padded([row.prompt_ids for row in rows], loaded.pad_id, loaded.device)
    sampler = RowSampler([row.stream.request.sampling for row in rows], [row.prompt_ids for row in rows], loaded.eos_ids)
    settle = _Settle(rows, sampler, books, after_step, abandoned)
    with torch.inference_mode():
        loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=generation_config(max(row.max_tokens for row in rows), loaded.pad_id),
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([settle]),
        )


def generation_config(max_new_tokens: int, pad_id: int) -> Any:
    """Greedy, until `max_new_tokens`. The loader emptied the model's own defaults, which `generate` would fill in here."""
    return GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad_id)


def _left_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: str) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [rows, longest prompt]."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


class _Settle(StoppingCriteria):  # type: ignore[misc]
    """Called by `generate` after every step with all tokens so far; returns which rows are done.

    Reading the tokens waits for the device, so a row's ending takes effect at once on CUDA too. Where transformers defers its stop check
    (5.23: only on mps) one more step comes after the last ending; it has no live row and changes none.
    """

    def __init__(
        self, rows: Sequence[Row], sampler: RowSampler, books: Books, after_step: Callable[[], None], abandoned: threading.Event
    ) -> None:
        self._rows = rows
        self._sampler = sampler
        self._books = books
        self._after_step = after_step
        self._abandoned = abandoned
        self._first = True

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        tokens = input_ids[:, -1].tolist()
        scored = self._sampler.scored(tokens)
        live = [index for index, row in enumerate(self._rows) if row.live]
        now = self._books.step("prefill" if self._first else "decode", [self._rows[index] for index in live], len(tokens) - len(live))
        for index in live:
            self._take(self._rows[index], tokens[index], now, scored[index])
        self._first = False
        if self._abandoned.is_set():
            for row in self._rows:
                self._books.fail(row, Cancelled(STOPPING, retry_after_s=1))
        self._books.settled(self._rows)
        self._after_step()
        return torch.tensor([not row.live for row in self._rows], device=input_ids.device)

    def _take(self, row: Row, token: int, now: float, scored: Scored | None) -> None:
        if row.first_token_at is None:
            self._books.first_token(row, now)
        reason = row.take(token, now, scored)
        if reason is not None:
            self._books.finish(row, reason)
