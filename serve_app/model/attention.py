"""Attention over a slot KV cache: many sequences in one packed forward, each reading and writing its own slot.

Registered with transformers under the name `slots`, so that any model which uses its attention interface runs unchanged. Tokens come
packed, one row of a batch of one, without padding:

    | one token of each decoding sequence | chunk of a prompt | chunk of another prompt |
      0 ................ num_decodes

A sequence's keys and values are written to its slot first; then decoding rows read all slots of the step in one call, with the queries of
a key-value head folded into the query axis (repeating keys per query head took six times as long on a CPU), and each chunk reads its own.
Knows tensors and positions; must not know requests. Tests: tests/model/test_runner.py, against `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "slots"


@dataclass(slots=True)
class Segment:
    """Positions [start, stop) of one slot, at `offset` of the packed tokens."""

    slot: int
    start: int
    stop: int
    offset: int


@dataclass(slots=True)
class Layout:
    """Which packed token belongs where, for one step. `keys` and `values`: per layer [slots, kv heads, slot tokens, head dim]."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    decodes: Sequence[tuple[int, int]]  # slot and position of each decoding token, in their packed order
    segments: Sequence[Segment]
    slots: Tensor = field(init=False)  # of the decoding tokens
    positions: Tensor = field(init=False)
    rows: Tensor | slice = field(init=False)  # of the cache, that the decoding tokens read
    length: int = field(init=False)  # the longest of them
    _masks: dict[int, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        device = self.keys[0].device
        self.slots = torch.tensor([slot for slot, _ in self.decodes], device=device)
        self.positions = torch.tensor([position for _, position in self.decodes], device=device)
        self.length = max((position for _, position in self.decodes), default=-1) + 1
        self.rows = _rows([slot for slot, _ in self.decodes], self.slots)

    def mask(self, window: int) -> Tensor:
        """[decodes, 1, 1, length], True where a decoding token may look; `window` 0: everything before it."""
        if window not in self._masks:
            at = torch.arange(self.length, device=self.positions.device)
            last = self.positions[:, None]
            seen = at <= last
            if window:
                seen &= at > last - window
            self._masks[window] = seen[:, None, None, :]
        return self._masks[window]


def _rows(slots: list[int], indices: Tensor) -> Tensor | slice:
    """A view of neighbouring slots in order reads each byte once; anything else is gathered, which copies it first."""
    if slots and slots == list(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return indices


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, scaling: float | None = None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface, over the packed tokens of one step.

    `query` is [1, heads, tokens, dim], `key` and `value` [1, kv heads, tokens, dim]; the result [1, tokens, heads, dim].
    `options["layout"]` is the step's; `options["sliding_window"]` the layer's window, where it has one.
    """
    layout: Layout = options["layout"]
    keys, values = layout.keys[module.layer_idx], layout.values[module.layer_idx]
    window = options.get("sliding_window") or 0
    out = torch.empty_like(query)
    num_decodes = len(layout.decodes)
    if num_decodes:
        keys[layout.slots, :, layout.positions] = key[0, :, :num_decodes].transpose(0, 1)
        values[layout.slots, :, layout.positions] = value[0, :, :num_decodes].transpose(0, 1)
        out[0, :, :num_decodes] = _decode(query[0, :, :num_decodes], keys, values, layout, window, scaling)
    for segment in layout.segments:
        packed = slice(segment.offset, segment.offset + segment.stop - segment.start)
        keys[segment.slot, :, segment.start : segment.stop] = key[0, :, packed]
        values[segment.slot, :, segment.start : segment.stop] = value[0, :, packed]
        out[:, :, packed] = _prefill(query[:, :, packed], keys, values, segment, window, scaling)
    return out.transpose(1, 2), None


def _decode(query: Tensor, keys: Tensor, values: Tensor, layout: Layout, window: int, scaling: float | None) -> Tensor:
    """One token per row: [heads, rows, dim]."""
    heads, rows, dim = query.shape
    kv_heads = keys.shape[1]
    folded = query.transpose(0, 1).reshape(rows, kv_heads, heads // kv_heads, dim)
    held = functional.scaled_dot_product_attention(
        folded,
        keys[layout.rows, :, : layout.length],
        values[layout.rows, :, : layout.length],
        attn_mask=layout.mask(window),
        scale=scaling,
    )
    return held.reshape(rows, heads, dim).transpose(0, 1)


def _prefill(query: Tensor, keys: Tensor, values: Tensor, segment: Segment, window: int, scaling: float | None) -> Tensor:
    """A chunk of one prompt after what its slot holds already: [1, heads, tokens, dim]."""
    own = (keys[segment.slot, :, : segment.stop][None], values[segment.slot, :, : segment.stop][None])
    if segment.start == 0 and (not window or segment.stop <= window):
        return functional.scaled_dot_product_attention(query, *own, is_causal=True, scale=scaling, enable_gqa=True)
    at = torch.arange(segment.stop, device=query.device)
    last = torch.arange(segment.start, segment.stop, device=query.device)[:, None]
    seen = at <= last
    if window:
        seen &= at > last - window
    return functional.scaled_dot_product_attention(query, *own, attn_mask=seen, scale=scaling, enable_gqa=True)


def _no_mask(*_: object, **__: object) -> None:
    """transformers builds a mask per model; ours comes from the layout."""


def register() -> None:
    """Make `slots` known to transformers; any number of times."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _no_mask)
