"""Runs one step of an in-flight batch: a packed forward over the slot KV cache, and the logits of the tokens that want a next one.

Tensors only: what to run, in which slot and at which position is the scheduler's; what a token means is the engine's.
Tests: tests/model/test_runner.py, against `generate`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import Tensor

from serve_app.errors import ModelLoadError
from serve_app.model import attention
from serve_app.model.attention import Layout, Segment
from serve_app.model.scheduler import Step
from serve_app.model.unpacked import many_tokens


class SlotCache:
    """Keys and values of `num_slots` sequences of up to `slot_tokens` tokens: per layer [slots, kv heads, slot tokens, head dim]."""

    def __init__(self, config: Any, num_slots: int, slot_tokens: int, dtype: torch.dtype, device: str) -> None:
        """
        Raises:
            ModelLoadError: it does not fit into the machine's memory, with the arithmetic.
        """
        layers, heads, dim = _shape(config)
        size = num_slots * slot_tokens * bytes_per_token(config, dtype)
        free = torch.cuda.mem_get_info()[0] if device.startswith("cuda") else psutil.virtual_memory().available
        if size > free:
            factors = f"{num_slots} slots x {slot_tokens} tokens x 2 x {layers} layers x {heads} heads x {dim} x {dtype.itemsize} bytes"
            raise ModelLoadError(
                f"the KV cache takes {size / 1e6:,.0f} MB ({factors}), and {free / 1e6:,.0f} MB are free; "
                "lower model.kv_cache_mb or model.max_context"
            )
        shape = (num_slots, heads, slot_tokens, dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """The keys and values of a prefix, from slot to slot."""
        for held in (*self.keys, *self.values):
            held[target, :, :num_tokens] = held[source, :, :num_tokens]


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """What one token of one sequence takes in the cache."""
    layers, heads, dim = _shape(config)
    return int(2 * layers * heads * dim * dtype.itemsize)


class Runner:
    """One model with its cache. `with runner.attached():` while it is used; the model is as it was before and after."""

    def __init__(self, model: Any, num_slots: int, slot_tokens: int) -> None:
        attention.register()
        self.num_slots, self.slot_tokens = num_slots, slot_tokens
        self._model = model
        self._config = model.config.get_text_config()
        self._device = str(model.device)
        self.cache = SlotCache(self._config, num_slots, slot_tokens, _dtype(model), self._device)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """The model attends over our slots in here."""
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(attention.NAME)
        try:
            with many_tokens(self._model):
                yield
        finally:
            self._model.set_attn_implementation(before)

    def run(self, step: Step) -> Tensor:
        """The fp32 logits [yields, vocabulary] of the step's sequences that get a token, in the order of `step.yields`."""
        for copy in step.copies:
            self.cache.copy(copy.source, copy.target, copy.num_tokens)
        ids, positions, layout = self._packed(step)
        wanted = list(range(len(step.decodes)))
        for chunk, segment in zip(step.chunks, layout.segments, strict=True):
            if chunk.completes:
                wanted.append(segment.offset + segment.stop - segment.start - 1)
        with torch.inference_mode():
            out = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=torch.tensor([positions], device=self._device),
                use_cache=False,
                logits_to_keep=torch.tensor(wanted, device=self._device, dtype=torch.long),
                layout=layout,
            )
        logits: Tensor = out.logits[0].float()
        return logits

    def _packed(self, step: Step) -> tuple[list[int], list[int], Layout]:
        decodes = [(_slot(sequence), len(sequence.prompt_ids) + len(sequence.token_ids) - 1) for sequence in step.decodes]
        ids = [sequence.token_ids[-1] for sequence in step.decodes]
        positions = [position for _, position in decodes]
        segments = []
        for chunk in step.chunks:
            segments.append(Segment(_slot(chunk.sequence), chunk.start, chunk.stop, len(ids)))
            ids += chunk.sequence.prompt_ids[chunk.start : chunk.stop]
            positions += range(chunk.start, chunk.stop)
        return ids, positions, Layout(self.cache.keys, self.cache.values, decodes, segments)


def _slot(sequence: Any) -> int:
    assert sequence.slot is not None, "a sequence that runs has a slot"
    return int(sequence.slot)


def _shape(config: Any) -> tuple[int, int, int]:
    """Layers, key-value heads, head dimension."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, dim


def _dtype(model: Any) -> torch.dtype:
    """Of what attention sees: the embedding's, because quantised weights are bytes."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


def num_slots_in(budget_bytes: int, model: Any, slot_tokens: int) -> int:
    """How many slots of that length a memory budget holds.

    Raises:
        ModelLoadError: not one, with the arithmetic.
    """
    each = bytes_per_token(model.config.get_text_config(), _dtype(model)) * slot_tokens
    if budget_bytes < each:
        raise ModelLoadError(
            f"model.kv_cache_mb {budget_bytes / 1e6:,.0f} holds no sequence: one of {slot_tokens} tokens takes {each / 1e6:,.0f} MB; "
            "raise it or lower model.max_context"
        )
    return budget_bytes // each
