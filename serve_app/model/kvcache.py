"""Keys and values of the sequences in flight: one slot each, in pages that matrix products on a CPU read as they lie.

Per layer, keys and values are [pages, slots, kv heads, page tokens, head dim]: the same page of neighbouring slots is one piece of memory,
and torch's batched products copy anything that is not. On a GPU, whose attention kernels read slices, a slot is one page.
Sized by whoever makes it. Knows slots and positions; must not know who owns them. Tests: tests/engine/test_attention.py.
"""

from __future__ import annotations

import math
import mmap
from typing import Any, TypeAlias

import torch
from torch import Tensor

from serve_app.errors import ModelLoadError
from serve_app.model.devices import free_on

PAGE_TOKENS = 256

Rows: TypeAlias = slice | Tensor  # slots: neighbours, or their numbers


class LayerCache:
    """One layer's part."""

    def __init__(self, num_slots: int, num_pages: int, page_tokens: int, heads: int, dim: int, dtype: torch.dtype, device: str) -> None:
        self.num_heads, self.page_tokens = heads, page_tokens
        shape = (num_pages, num_slots, heads, page_tokens, dim)
        self._keys, self._values = (_zeros(shape, dtype, device) for _ in range(2))

    def write_tokens(self, slots: Tensor, positions: Tensor, key: Tensor, value: Tensor) -> None:
        """One token into each of these slots: [tokens, kv heads, head dim]."""
        pages, at = positions // self.page_tokens, positions % self.page_tokens
        self._keys[pages, slots, :, at] = key
        self._values[pages, slots, :, at] = value

    def write(self, slot: int, start: int, key: Tensor, value: Tensor) -> None:
        """Tokens [tokens, kv heads, head dim] from a position on, into one slot."""
        done = 0
        while done < key.shape[0]:
            page, at = divmod(start + done, self.page_tokens)
            num = min(self.page_tokens - at, key.shape[0] - done)
            self._keys[page, slot, :, at : at + num] = key[done : done + num].transpose(0, 1)
            self._values[page, slot, :, at : at + num] = value[done : done + num].transpose(0, 1)
            done += num

    def page(self, number: int, rows: Rows) -> tuple[Tensor, Tensor]:
        """Keys and values of one page, [rows * kv heads, page tokens, head dim]: neighbours as they lie, others copied together."""
        return self._keys[number][rows].flatten(0, 1), self._values[number][rows].flatten(0, 1)

    def first(self, rows: Rows, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first tokens, [rows, kv heads, tokens, head dim]."""
        pages = range(-(-num_tokens // self.page_tokens))
        keys, values = (
            held[0][rows] if len(pages) == 1 else torch.cat([held[page][rows] for page in pages], -2) for held in (self._keys, self._values)
        )
        return keys[:, :, :num_tokens], values[:, :, :num_tokens]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """A prefix, from slot to slot."""
        for held in (self._keys, self._values):
            for page in range(-(-num_tokens // self.page_tokens)):
                num = min(self.page_tokens, num_tokens - page * self.page_tokens)
                held[page, target, :, :num] = held[page, source, :, :num]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """On a CPU, memory that the process takes only where it is written: most sequences never fill their slot."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = math.prod(shape)
    return torch.frombuffer(mmap.mmap(-1, count * dtype.itemsize), dtype=dtype, count=count).view(shape)


class SlotCache:
    """`num_slots` sequences of up to `slot_tokens` tokens of a model's configuration."""

    def __init__(
        self, config: Any, num_slots: int, slot_tokens: int, dtype: torch.dtype, device: str, page_tokens: int = PAGE_TOKENS
    ) -> None:
        """
        Raises:
            ModelLoadError: it does not fit into the machine's memory, with the arithmetic.
        """
        layers, heads, dim = shape_of(config)
        self.dtype, self.device = dtype, device
        self.page_tokens = page_tokens if device == "cpu" else slot_tokens
        num_pages = -(-slot_tokens // self.page_tokens)
        size = num_slots * bytes_per_slot(config, slot_tokens, dtype, device, page_tokens)
        free = free_on(device)
        if size > free:
            held = num_pages * self.page_tokens
            factors = f"{num_slots} slots x {held} tokens x 2 x {layers} layers x {heads} heads x {dim} x {dtype.itemsize} bytes"
            raise ModelLoadError(
                f"the KV cache takes {size / 1e6:,.0f} MB ({factors}), and {free / 1e6:,.0f} MB are free; "
                "lower model.kv_cache_mb or model.max_context"
            )
        self.layers = [LayerCache(num_slots, num_pages, self.page_tokens, heads, dim, dtype, device) for _ in range(layers)]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """The keys and values of a prefix, from slot to slot."""
        for layer in self.layers:
            layer.copy(source, target, num_tokens)


def bytes_per_slot(config: Any, slot_tokens: int, dtype: torch.dtype, device: str, page_tokens: int = PAGE_TOKENS) -> int:
    """What one sequence takes: on a CPU whole pages."""
    layers, heads, dim = shape_of(config)
    tokens = -(-slot_tokens // page_tokens) * page_tokens if device == "cpu" else slot_tokens
    return int(2 * layers * heads * dim * dtype.itemsize * tokens)


def num_slots_in(budget_bytes: int, config: Any, slot_tokens: int, dtype: torch.dtype, device: str, page_tokens: int = PAGE_TOKENS) -> int:
    """How many slots of that length a memory budget holds.

    Raises:
        ModelLoadError: not one, with the arithmetic.
    """
    each = bytes_per_slot(config, slot_tokens, dtype, device, page_tokens)
    if budget_bytes < each:
        raise ModelLoadError(
            f"model.kv_cache_mb {budget_bytes / 1e6:,.0f} holds no sequence: one of {slot_tokens} tokens takes {each / 1e6:,.0f} MB; "
            "raise it or lower model.max_context"
        )
    return budget_bytes // each


def shape_of(config: Any) -> tuple[int, int, int]:
    """Layers, key-value heads, head dimension."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, dim
