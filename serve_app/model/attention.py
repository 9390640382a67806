"""Attention over a slot KV cache: many sequences in one packed forward, each reading and writing its own slot.

Tokens come packed, one row of a batch of one, without padding:

    | one token of each decoding sequence | chunk of a prompt | chunk of another prompt |
      0 ................ num_decodes

A sequence's keys and values are written to its slot first; then decoding rows read their slots together, and each chunk reads its own. On a
CPU the products are plain batched matrix products with the query heads of a key-value head folded into their rows, which take half the time
of torch's fused CPU attention (docs/performance.md). Elsewhere it is torch's `scaled_dot_product_attention`.

Registered with transformers under the name `slots`, so that any model which uses its attention interface runs unchanged.
Knows tensors and positions; must not know requests or where KV lies (kvcache.py). Tests: tests/fast/test_attention.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.kvcache import LayerCache, Rows, SlotCache

NAME = "slots"
QUERIES = 128  # of a chunk that are computed at once on a CPU, against the keys up to the last of them
MAX_SPREAD = 2  # reading twice the slots in place still costs less than copying the wanted ones together


@dataclass(slots=True)
class Segment:
    """Positions [start, stop) of one slot, at `offset` of the packed tokens."""

    slot: int
    start: int
    stop: int
    offset: int

    @property
    def packed(self) -> slice:
        """Where its tokens are."""
        return slice(self.offset, self.offset + self.stop - self.start)


@dataclass(frozen=True, slots=True)
class Block:
    """Some queries of a chunk: the `tokens` of the chunk, the positions `seen` by them, and which of those get `bias` added.

    `bias` is [queries, masked positions], 0 where a query may look and -inf where not.
    """

    tokens: slice
    seen: slice
    masked: slice
    bias: Tensor


@dataclass(slots=True)
class Layout:
    """Which packed token belongs where, for one step."""

    cache: SlotCache
    decodes: Sequence[tuple[int, int]]  # slot and position of each decoding token, in their packed order
    segments: Sequence[Segment]
    slots: Tensor = field(init=False)  # of the decoding tokens
    positions: Tensor = field(init=False)
    first_slot: int | None = field(init=False)  # neighbouring slots from here on are read; None: those of the decoding tokens alone
    num_rows: int = field(init=False)  # how many are read
    at: Tensor = field(init=False)  # where among these rows each decoding token's is
    pages: list[Rows] = field(init=False)  # for each page of the cache, which of these rows reach into it
    _biases: dict[int, Tensor] = field(init=False, default_factory=dict)
    _blocks: dict[tuple[int, int], list[Block]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        device = self.cache.device
        slots = [slot for slot, _ in self.decodes]
        self.slots = torch.tensor(slots, device=device)
        self.positions = torch.tensor([position for _, position in self.decodes], device=device)
        first, last = (min(slots), max(slots)) if slots else (0, -1)
        near = last - first + 1 <= MAX_SPREAD * len(slots)
        self.first_slot = first if near else None
        self.num_rows = last - first + 1 if near else len(slots)
        at = [slot - first for slot in slots] if near else list(range(len(slots)))
        self.at = torch.tensor(at, device=device)
        num_pages = max((position for _, position in self.decodes), default=-1) // self.cache.page_tokens + 1
        self.pages = [self._page(number * self.cache.page_tokens, at) for number in range(num_pages)]

    def _page(self, start: int, at: list[int]) -> Rows:
        """Which of the rows that are read reach that position."""
        reaching = [row for row, (_, position) in zip(at, self.decodes, strict=True) if position >= start]
        first, last = min(reaching), max(reaching)
        if last - first + 1 <= MAX_SPREAD * len(reaching):
            return slice(first, last + 1)
        return torch.tensor(reaching, device=self.positions.device)

    def slots_of(self, rows: Rows) -> Rows:
        """The slots of some of the rows that are read."""
        if self.first_slot is None:
            return self.slots[rows]
        if isinstance(rows, slice):
            return slice(self.first_slot + rows.start, self.first_slot + rows.stop)
        return rows + self.first_slot

    def bias(self, window: int) -> Tensor:
        """[rows, 1, 1, pages * page tokens], 0 where a row's token may look and -inf where not; `window` 0: everything before it."""
        if window not in self._biases:
            device = self.positions.device
            last = torch.zeros(self.num_rows, dtype=torch.long, device=device)  # rows of nobody must see something, too
            last[self.at] = self.positions
            at, last = torch.arange(len(self.pages) * self.cache.page_tokens, device=device), last[:, None]
            hidden = at > last
            if window:
                hidden |= at <= last - window
            self._biases[window] = self._minus_inf(hidden)[:, None, None, :]
        return self._biases[window]

    def blocks(self, segment: Segment, window: int) -> list[Block]:
        """Of a segment's queries. Without a window only a block's own positions need a mask: all before them are seen by all."""
        key = (segment.offset, window)
        if key not in self._blocks:
            starts = range(segment.start, segment.stop, QUERIES)
            self._blocks[key] = [self._block(segment, start, min(start + QUERIES, segment.stop), window) for start in starts]
        return self._blocks[key]

    def _block(self, segment: Segment, start: int, stop: int, window: int) -> Block:
        first = max(0, start - window + 1) if window else 0
        masked_from = first if window else start
        device = self.positions.device
        at, last = torch.arange(masked_from, stop, device=device), torch.arange(start, stop, device=device)[:, None]
        hidden = at > last
        if window:
            hidden |= at <= last - window
        tokens = slice(start - segment.start, stop - segment.start)
        return Block(tokens, slice(first, stop), slice(masked_from - first, None), self._minus_inf(hidden))

    def _minus_inf(self, hidden: Tensor) -> Tensor:
        bias = torch.zeros(hidden.shape, dtype=self.cache.dtype, device=hidden.device)
        return bias.masked_fill_(hidden, -torch.inf)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, scaling: float | None = None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface, over the packed tokens of one step.

    `query` is [1, heads, tokens, dim], `key` and `value` [1, kv heads, tokens, dim]; the result [1, tokens, heads, dim].
    `options["layout"]` is the step's; `options["sliding_window"]` and `options["softcap"]` the layer's, where it has them. Options beyond
    these are left out: support.py refuses models that need one.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = options.get("sliding_window") or 0
    own, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
    return run(own, keys, values, options["layout"], module.layer_idx, window, scaling, options.get("softcap") or 0.0)[None], None


def run(query: Tensor, key: Tensor, value: Tensor, layout: Layout, layer: int, window: int, scaling: float, softcap: float = 0.0) -> Tensor:
    """One layer's attention, and its new keys and values into the cache: [tokens, heads, dim], as `query`.

    `softcap`: scores are pressed into (-softcap, softcap) by a tanh, as in Gemma 2 (https://arxiv.org/abs/2408.00118); 0: they are not.
    """
    cache = layout.cache.layers[layer]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    plain = query.device.type == "cpu" or softcap > 0  # torch's fused attention has no cap
    num = len(layout.decodes)
    if num:
        cache.write_tokens(layout.slots, layout.positions, key[:num], value[:num])
        own = query[:num]
        out[:num] = _decode(own, cache, layout, window, scaling, softcap) if plain else _decode_fused(own, cache, layout, window, scaling)
    for segment in layout.segments:
        cache.write(segment.slot, segment.start, key[segment.packed], value[segment.packed])
        own, into = query[segment.packed], out[segment.packed]
        if plain:
            _prefill(own, cache, into, layout, segment, window, scaling, softcap)
        else:
            _prefill_fused(own, cache, into, layout, segment, window, scaling)
    return out


def _decode(query: Tensor, cache: LayerCache, layout: Layout, window: int, scaling: float, softcap: float) -> Tensor:
    """One token per row: [decodes, heads, dim]. Page by page: see kvcache.py."""
    folded = _folded(query, cache.num_heads, layout) * scaling
    rows, heads, group, dim = folded.shape
    size, num_pages = cache.page_tokens, len(layout.pages)
    scores = folded.new_full((num_pages, rows, heads, group, size), -torch.inf)
    pages = [(part, *cache.page(number, layout.slots_of(part))) for number, part in enumerate(layout.pages)]
    for number, (part, keys, _) in enumerate(pages):
        scores[number, part] = torch.bmm(folded[part].flatten(0, 1), keys.transpose(1, 2)).unflatten(0, (-1, heads))
    weights = _capped(scores, softcap).permute(1, 2, 3, 0, 4).flatten(3).add_(layout.bias(window)).softmax(-1)
    sums = folded.new_zeros(num_pages, rows, heads, group, dim)
    for number, (part, _, values) in enumerate(pages):
        own = weights[part, :, :, number * size : (number + 1) * size]
        sums[number, part] = torch.bmm(own.flatten(0, 1), values).unflatten(0, (-1, heads))
    return _unfolded(sums.sum(0), layout)


def _decode_fused(query: Tensor, cache: LayerCache, layout: Layout, window: int, scaling: float) -> Tensor:
    stop = len(layout.pages) * cache.page_tokens
    keys, values = cache.first(layout.slots_of(slice(0, layout.num_rows)), stop)
    folded = _folded(query, cache.num_heads, layout)
    out = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=layout.bias(window), scale=scaling)
    return _unfolded(out, layout)


def _folded(query: Tensor, kv_heads: int, layout: Layout) -> Tensor:
    """The decoding tokens' queries by the rows that are read: [rows, kv heads, query heads of each, dim]."""
    num, heads, dim = query.shape
    folded = query.reshape(num, kv_heads, heads // kv_heads, dim)
    return folded if layout.first_slot is None else folded.new_zeros(layout.num_rows, *folded.shape[1:]).index_copy_(0, layout.at, folded)


def _unfolded(out: Tensor, layout: Layout) -> Tensor:
    """The inverse: [decodes, heads, dim]."""
    return (out if layout.first_slot is None else out[layout.at]).flatten(1, 2)


def _prefill(
    query: Tensor, cache: LayerCache, out: Tensor, layout: Layout, segment: Segment, window: int, scaling: float, softcap: float
) -> None:
    """A chunk of one prompt after what its slot holds already, into `out` [tokens, heads, dim]."""
    keys, values = (part[0] for part in cache.first(slice(segment.slot, segment.slot + 1), segment.stop))
    heads, dim = cache.num_heads, query.shape[-1]
    for block in layout.blocks(segment, window):
        own = query[block.tokens]
        num = own.shape[0]
        folded = own.unflatten(1, (heads, -1)).permute(1, 2, 0, 3).reshape(heads, -1, dim) * scaling
        scores = _capped(torch.bmm(folded, keys[:, block.seen].transpose(1, 2)), softcap)
        scores.view(heads, -1, num, scores.shape[-1])[..., block.masked].add_(block.bias)
        held = torch.bmm(scores.softmax(-1), values[:, block.seen])
        out[block.tokens].unflatten(1, (heads, -1)).copy_(held.view(heads, -1, num, dim).permute(2, 0, 1, 3))


def _capped(scores: Tensor, softcap: float) -> Tensor:
    return scores.div_(softcap).tanh_().mul_(softcap) if softcap else scores


def _prefill_fused(query: Tensor, cache: LayerCache, out: Tensor, layout: Layout, segment: Segment, window: int, scaling: float) -> None:
    held = cache.first(slice(segment.slot, segment.slot + 1), segment.stop)
    mask = None
    if segment.start or (window and segment.stop > window):
        at = torch.arange(segment.stop, device=query.device)
        last = torch.arange(segment.start, segment.stop, device=query.device)[:, None]
        mask = at <= last
        if window:
            mask &= at > last - window
    own = query.transpose(0, 1)[None]
    done = functional.scaled_dot_product_attention(own, *held, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
    out.copy_(done[0].transpose(0, 1))


def no_mask(*_: object, **__: object) -> None:
    """transformers builds a mask per model; ours comes from the layout."""


def register() -> None:
    """Make `slots` known to transformers; any number of times."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, no_mask)
