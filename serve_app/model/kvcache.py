"""Keys and values of the sequences in flight: one slot each, in pages that matrix products on a CPU read as they lie.

Per layer, keys and values are [pages, slots, kv heads, page tokens, head dim]. The same page of neighbouring slots is one piece of memory,
and so are neighbouring pages of all slots; torch's batched products copy anything that is not. On a GPU, whose attention kernels read
slices, a slot is one page. Sized by whoever makes it. Knows slots and positions; must not know who owns them.
Tests: tests/engine/test_attention.py.
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

    def write_tokens(self, places: Tensor, key: Tensor, value: Tensor) -> None:
        """Tokens [tokens, kv heads, head dim] to where SlotCache.places says."""
        for held, new in ((self._keys, key), (self._values, value)):
            held.view(-1, held.shape[-1]).index_copy_(0, places, new.flatten(0, 1))

    def write(self, slot: int, start: int, key: Tensor, value: Tensor) -> None:
        """Tokens [tokens, kv heads, head dim] from a position on, into one slot."""
        for held, new in ((self._keys, key), (self._values, value)):
            done = 0
            for pages, tokens in self._pieces(start, start + new.shape[0]):
                num = (pages.stop - pages.start) * (tokens.stop - tokens.start)
                piece = new[done : done + num].unflatten(0, (pages.stop - pages.start, -1))  # [pages, tokens, heads, dim]
                held[pages, slot, :, tokens] = piece.transpose(1, 2)
                done += num

    def read(self, pages: slice, slots: Rows, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first tokens of each page, [pages * slots * kv heads, tokens, head dim]; copied if not one piece."""
        near = isinstance(slots, slice)
        keys, values = (held[pages, slots] if near else held[pages].index_select(1, slots) for held in (self._keys, self._values))
        return keys[:, :, :, :num_tokens].flatten(0, 2), values[:, :, :, :num_tokens].flatten(0, 2)

    def first(self, slots: Rows, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first tokens, [slots, kv heads, tokens, head dim]."""
        pages = slice(0, -(-num_tokens // self.page_tokens))
        keys, values = (held[pages][:, slots].permute(1, 2, 0, 3, 4).flatten(2, 3) for held in (self._keys, self._values))
        return keys[:, :, :num_tokens], values[:, :, :num_tokens]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """A prefix, from slot to slot."""
        for held in (self._keys, self._values):
            for pages, tokens in self._pieces(0, num_tokens):
                held[pages, target, :, tokens] = held[pages, source, :, tokens]

    def _pieces(self, start: int, stop: int) -> list[tuple[slice, slice]]:
        """Positions as whole pages with what is before and after them: of these pages, these tokens of each."""
        size = self.page_tokens
        first, last = -(-start // size), stop // size  # the whole pages
        if first > last:  # within one page
            return [(slice(last, first), slice(start - last * size, stop - last * size))]
        pieces = []
        if start % size:
            pieces.append((slice(first - 1, first), slice(start % size, size)))
        if first < last:
            pieces.append((slice(first, last), slice(0, size)))
        if stop % size:
            pieces.append((slice(last, last + 1), slice(0, stop % size)))
        return pieces


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """On a CPU, memory that the process takes only where it is written, not where it is read: most sequences never fill their slot."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = math.prod(shape)
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a shared one is taken by reading, too
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


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
        self.num_slots, self._heads = num_slots, heads
        self.all_slots = slice(0, num_slots)
        self.layers = [LayerCache(num_slots, num_pages, self.page_tokens, heads, dim, dtype, device) for _ in range(layers)]

    def places(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Where a layer holds these tokens' heads, for `write_tokens`: [tokens * kv heads]."""
        heads = torch.arange(self._heads, device=self.device)
        pages, at = positions // self.page_tokens, positions % self.page_tokens
        by_head = ((pages * self.num_slots + slots)[:, None] * self._heads + heads) * self.page_tokens + at[:, None]
        return by_head.flatten()

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
