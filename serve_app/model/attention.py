"""Attention over a slot KV cache: many sequences in one packed forward, each reading and writing its own slot.

Tokens come packed, one row of a batch of one, without padding, in the order that layout.py draws. A sequence's keys and values are written
to its slot first; then decoding rows read their slots together, and each chunk reads its own. On a CPU the products are plain batched
matrix products with the query heads of a key-value head folded into their rows, which take half the time of torch's fused CPU attention
(docs/performance.md). Elsewhere it is torch's `scaled_dot_product_attention`.

Registered with transformers under the name `slots`, so that any model which uses its attention interface runs unchanged.
Knows tensors and positions; must not know requests or where KV lies (kvcache.py). Tests: tests/engine/test_attention.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.kvcache import LayerCache
from serve_app.model.layout import Layout, Read, Segment

NAME = "slots"


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
        cache.write_tokens(layout.places, key[:num], value[:num])
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
    """The decoding tokens, [tokens, heads, dim]. By pages: see kvcache.py."""
    folded = _folded(query, cache.num_heads, layout) * scaling
    held = [(read, *cache.read(read.pages, read.slots, read.num_tokens)) for read in layout.reads]
    found = [_by_row(torch.bmm(_for_pages(folded, read), keys.transpose(1, 2)), read, cache.num_heads) for read, keys, _ in held]
    scores = found[0].flatten(3) if len(held) == 1 else _side_by_side(found, folded, layout)
    scores = _capped(scores, softcap)
    scores.unflatten(2, (layout.width, -1)).add_(layout.bias(window))
    weights = scores.softmax(-1)
    parts = [_by_row(torch.bmm(_of_pages(weights, read), values), read, cache.num_heads) for read, _, values in held]
    sums = [part.sum(3) if part.shape[3] > 1 else part[:, :, :, 0] for part in parts]
    out = sums[0]
    for read, part in zip(layout.reads[1:], sums[1:], strict=True):
        out[read.rows] += part
    return _unfolded(out, layout)


def _side_by_side(found: list[Tensor], folded: Tensor, layout: Layout) -> Tensor:
    """The scores of all reads, [rows, kv heads, queries, positions]."""
    shape = (*folded.shape[:3], layout.num_seen)
    scores = folded.new_empty(shape) if layout.is_even else folded.new_full(shape, -torch.inf)
    for read, part in zip(layout.reads, found, strict=True):
        if isinstance(read.rows, slice):
            scores[read.rows, :, :, read.seen].unflatten(3, (-1, read.num_tokens)).copy_(part)
        else:
            scores[read.rows, :, :, read.seen] = part.flatten(3)
    return scores


def _for_pages(folded: Tensor, read: Read) -> Tensor:
    """The rows' queries once for each page: [pages * rows * kv heads, queries, dim]."""
    own = folded[read.rows]
    return own.expand(read.pages.stop - read.pages.start, *own.shape).flatten(0, 2)


def _of_pages(weights: Tensor, read: Read) -> Tensor:
    """The read's part of [rows, kv heads, queries, positions] as [pages * rows * kv heads, queries, tokens]."""
    return weights[read.rows, :, :, read.seen].unflatten(3, (-1, read.num_tokens)).permute(3, 0, 1, 2, 4).flatten(0, 2)


def _by_row(product: Tensor, read: Read, heads: int) -> Tensor:
    """[pages * rows * kv heads, queries, width] to [rows, kv heads, queries, pages, width]."""
    return product.unflatten(0, (read.pages.stop - read.pages.start, -1, heads)).permute(1, 2, 3, 0, 4)


def _decode_fused(query: Tensor, cache: LayerCache, layout: Layout, window: int, scaling: float) -> Tensor:
    keys, values = cache.first(layout.slots_of(slice(0, layout.num_rows)), layout.num_seen)
    folded = _folded(query, cache.num_heads, layout)
    group = folded.shape[2] // layout.width
    bias = layout.bias(window).expand(-1, -1, -1, group, -1).flatten(2, 3)
    out = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=bias, scale=scaling)
    return _unfolded(out, layout)


def _folded(query: Tensor, kv_heads: int, layout: Layout) -> Tensor:
    """The decoding tokens' queries by rows: [rows, kv heads, width * query heads of each, dim]."""
    if not layout.is_whole:
        query = query.new_zeros(layout.num_rows * layout.width, *query.shape[1:]).index_copy_(0, layout.at, query)
    by_row = query.unflatten(0, (-1, layout.width)).unflatten(2, (kv_heads, -1))  # [rows, width, kv heads, query heads of each, dim]
    return by_row.transpose(1, 2).flatten(2, 3)


def _unfolded(out: Tensor, layout: Layout) -> Tensor:
    """The inverse: [tokens, heads, dim]."""
    by_query = out.unflatten(2, (layout.width, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return by_query if layout.is_whole else by_query[layout.at]


def _prefill(
    query: Tensor, cache: LayerCache, out: Tensor, layout: Layout, segment: Segment, window: int, scaling: float, softcap: float
) -> None:
    """A chunk of one prompt after what its slot holds already, into `out` [tokens, heads, dim]."""
    keys, values = (part[0] for part in cache.first(slice(segment.slot, segment.slot + 1), segment.stop))
    heads, dim = cache.num_heads, query.shape[-1]
    for block in layout.blocks(segment, window):
        own = query[block.tokens]
        num = own.shape[0]
        by_head = own.unflatten(1, (heads, -1)).permute(1, 2, 0, 3)
        folded = torch.mul(by_head, scaling, out=own.new_empty(by_head.shape)).view(heads, -1, dim)
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
