"""Runs one step of an in-flight batch: a packed forward over the slot KV cache, and the logits of the tokens that want a next one.

Tensors only: what to run, in which slot and at which position is the scheduler's; what a token means is the engine's.
Tests: tests/model/test_architectures.py, against `generate`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from serve_app.model import attention
from serve_app.model.dense import Dense, fits
from serve_app.model.kvcache import SlotCache
from serve_app.model.layout import Layout, Segment
from serve_app.model.linears import is_packed, kept_bytes, quick
from serve_app.model.pace import Costs
from serve_app.model.scheduler import Chunk, Sequence, Step
from serve_app.model.support import attending, refuse_rotation, refuse_unsupported

MEASURED_ROWS, MEASURED_CONTEXT, MEASURED_PROMPT, MEASURED_TIMES, MEASURED_S = 16, 200, 256, 4, 0.2
MEASURED_GUESSES = 3
UNMEASURED = Costs(step_s=0.01, row_s=0.001, prompt_token_s=0.0005, guess_s=0.0005)


class Runner:
    """One model with its cache. `with runner.attached():` while it is used; the model is as it was before and after."""

    def __init__(self, model: Any, num_slots: int, slot_tokens: int, keep: bool = False) -> None:
        """`keep`: with a bf16 copy of 4-bit weights on a CPU, which is quicker (see linears.py).

        Raises:
            ModelLoadError: the model would write something else over slots than alone, or the cache does not fit.
        """
        attention.register()
        self.costs = UNMEASURED
        self.num_slots, self.slot_tokens = num_slots, slot_tokens
        self._model = model
        self._config = model.config.get_text_config()
        self._device = str(model.device)
        self._keep = keep
        self.kept_bytes = bytes_to_keep(model) if keep else 0
        (refuse_rotation if fits(model) else refuse_unsupported)(model, slot_tokens)
        self._dense = Dense(model, keep) if fits(model) else None
        self.cache = SlotCache(self._config, num_slots, slot_tokens, dtype_of(model), self._device)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """The model attends over our slots in here."""
        with (
            attending(self._model, attention.NAME),
            contextlib.nullcontext() if self._dense is not None else quick(self._model, self._keep),
        ):
            yield

    def measure(self) -> None:
        """Set `costs`, from a few steps on slots that nobody uses yet. Takes about a second of the embedded model."""
        rows = min(MEASURED_ROWS, self.num_slots)
        prompt, at = min(MEASURED_PROMPT, self.slot_tokens), min(MEASURED_CONTEXT, self.slot_tokens - 1 - MEASURED_GUESSES)
        sequences = [Sequence(slot, [0] * at, 1, "batch", 0.0, slot=slot, token_ids=[0]) for slot in range(rows)]
        whole = Sequence(rows, [0] * prompt, 1, "batch", 0.0, slot=0)
        with self.attached():
            one_s = self._seconds(Step(decodes=tuple(sequences[:1])))
            all_s = self._seconds(Step(decodes=tuple(sequences)))
            guessed_s = self._seconds(Step(decodes=tuple(sequences), guesses=dict.fromkeys(sequences, (0,) * MEASURED_GUESSES)))
            prompt_s = self._seconds(Step(chunks=(Chunk(whole, 0, prompt),)))
        row_s = max(all_s - one_s, 0.0) / max(rows - 1, 1)
        step_s = max(one_s - row_s, 0.0)
        guess_s = max(guessed_s - all_s, 0.0) / (rows * MEASURED_GUESSES)
        self.costs = Costs(step_s, row_s, max(prompt_s - step_s, prompt_s / 2) / prompt, guess_s)

    def _seconds(self, step: Step) -> float:
        """The best of a few times, of two where the machine is slow: everybody waits for it at the start."""
        times: list[float] = []
        while len(times) < 2 or (len(times) < MEASURED_TIMES and sum(times) < MEASURED_S):
            began_at = time.perf_counter()
            self.run(step).flatten()[-1].item()  # waits for the device
            times.append(time.perf_counter() - began_at)
        return min(times)

    def run(self, step: Step) -> Tensor:
        """The logits of the step's sequences that get a token, [those and the step's guesses, vocabulary], in the order of `step.yields`:
        of each sequence what follows its last token, then what follows each of its guessed ones. In the model's own precision."""
        for copy in step.copies:
            self.cache.copy(copy.source, copy.target, copy.num_tokens)
        ids, positions, layout = self._packed(step)
        wanted = list(range(len(layout.decodes)))
        for chunk, segment in zip(step.chunks, layout.segments, strict=True):
            if chunk.completes:
                wanted.append(segment.offset + segment.stop - segment.start - 1)
        tokens, at, kept = (torch.tensor(numbers, device=self._device, dtype=torch.long) for numbers in (ids, positions, wanted))
        with torch.inference_mode():
            return self._forward(tokens, at, kept, layout)

    def _forward(self, ids: Tensor, positions: Tensor, wanted: Tensor, layout: Layout) -> Tensor:
        if self._dense is not None:
            return self._dense(ids, positions, wanted, layout)
        out = self._model(input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=wanted, layout=layout)
        logits: Tensor = out.logits[0]
        return logits

    def _packed(self, step: Step) -> tuple[list[int], list[int], Layout]:
        ids: list[int] = []
        decodes: list[tuple[int, int]] = []
        for sequence in step.decodes:
            start = len(sequence.prompt_ids) + len(sequence.token_ids) - 1
            new = (sequence.token_ids[-1], *step.guesses.get(sequence, ()))
            ids += new
            decodes += [(_slot(sequence), position) for position in range(start, start + len(new))]
        positions = [position for _, position in decodes]
        segments = []
        for chunk in step.chunks:
            segments.append(Segment(_slot(chunk.sequence), chunk.start, chunk.stop, len(ids)))
            ids += chunk.sequence.prompt_ids[chunk.start : chunk.stop]
            positions += range(chunk.start, chunk.stop)
        return ids, positions, Layout(self.cache, decodes, segments)


def _slot(sequence: Any) -> int:
    assert sequence.slot is not None, "a sequence that runs has a slot"
    return int(sequence.slot)


def bytes_to_keep(model: Any) -> int:
    """What `Runner(keep=True)` takes for weights, beside the model's own; 0 where it has nothing to keep."""
    if not any(is_packed(layer) for layer in model.modules()):
        return 0  # nothing would be quicker
    return kept_bytes(model.modules() if fits(model) else filter(is_packed, model.modules()))


def dtype_of(model: Any) -> torch.dtype:
    """Of what attention sees: the embedding's, because quantised weights are bytes."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype
