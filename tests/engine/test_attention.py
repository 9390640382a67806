"""Packed attention over slots, against one token at a time in plain words: random layouts, windows, near and far slots, both kernels."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from serve_app.errors import ModelLoadError
from serve_app.model import attention, layout
from serve_app.model.kvcache import SlotCache, bytes_per_slot, num_slots_in
from serve_app.model.layout import Layout, Segment

HEADS, KV_HEADS, DIM, SLOT_TOKENS, PAGE = 6, 2, 8, 100, 16
CONFIG = SimpleNamespace(num_hidden_layers=2, num_key_value_heads=KV_HEADS, num_attention_heads=HEADS, head_dim=DIM, hidden_size=48)
SCALING = 0.3
History = dict[int, tuple[Tensor, Tensor]]  # slot -> keys and values so far, [tokens, kv heads, dim]


def make_cache(num_slots: int, page_tokens: int = PAGE) -> SlotCache:
    return SlotCache(CONFIG, num_slots, SLOT_TOKENS, torch.float32, "cpu", page_tokens)


def fill(cache: SlotCache, lengths: dict[int, int]) -> History:
    """Random keys and values of so many tokens in each slot, in every layer."""
    history = {slot: (torch.randn(num, KV_HEADS, DIM), torch.randn(num, KV_HEADS, DIM)) for slot, num in lengths.items()}
    for slot, (key, value) in history.items():
        for layer in cache.layers:
            layer.write(slot, 0, key, value)
    return history


def expected(query: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """One token's attention, [heads, dim], over all keys up to its own."""
    keys, values = (part[-window:] if window else part for part in (keys, values))
    keys, values = (part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (keys, values))
    weights = (torch.einsum("hd,thd->ht", query, keys) * SCALING).softmax(-1)
    return torch.einsum("ht,thd->hd", weights, values)


@pytest.mark.parametrize("fused", [False, True], ids=["products", "fused"])
@pytest.mark.parametrize("window", [0, 5, 40])
@pytest.mark.parametrize("seed", range(12))
def test_every_packed_token_attends_to_its_own_slot_up_to_itself(
    seed: int, window: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused:  # what a GPU runs
        monkeypatch.setattr(attention, "_decode", lambda *words: attention._decode_fused(*words[:-1]))  # without the cap of the scores
        monkeypatch.setattr(attention, "_prefill", lambda *words: attention._prefill_fused(*words[:-1]))
    monkeypatch.setattr(layout, "QUERIES", 7)
    monkeypatch.setattr(layout, "TAIL_TOKENS", 5)
    torch.manual_seed(seed)
    choose = random.Random(seed)
    num_slots = choose.choice([7, 8, 40])  # all are used; most; they are far from each other
    cache = make_cache(num_slots)
    slots = choose.sample(range(num_slots), 7)
    decoding, prefilling = slots[: choose.randint(0, 5)], slots[5:]
    history = fill(cache, {slot: choose.randint(0 if slot in prefilling else 1, 60) for slot in slots})
    lengths = {slot: choose.randint(1, 30) for slot in prefilling}
    guesses = {slot: choose.choice([0, 0, 1, 4]) for slot in decoding}
    decodes = [(slot, len(history[slot][0]) + more) for slot in decoding for more in range(1 + guesses[slot])]
    segments, offset = [], len(decodes)
    for slot, num in lengths.items():
        start = len(history[slot][0])
        segments.append(Segment(slot, start, start + num, offset))
        offset += num
    query, key, value = (torch.randn(offset, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    out = attention.run(query, key, value, Layout(cache, decodes, segments), 1, window, SCALING)
    packed = [(slot, [index for index, (other, _) in enumerate(decodes) if other == slot]) for slot in decoding]
    packed += [(segment.slot, list(range(segment.packed.start, segment.packed.stop))) for segment in segments]
    for slot, indices in packed:
        keys, values = (torch.cat([old, new[indices]]) for old, new in zip(history[slot], (key, value), strict=True))
        for number, index in enumerate(indices):
            seen = len(history[slot][0]) + number + 1
            torch.testing.assert_close(out[index], expected(query[index], keys[:seen], values[:seen], window))


@pytest.mark.parametrize("seed", range(30))
def test_every_row_is_read_as_far_as_it_reaches_and_nothing_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "TAIL_TOKENS", 5)
    choose = random.Random(seed)
    num_slots = choose.choice([6, 8, 40])
    ends = {slot: choose.randrange(SLOT_TOKENS) for slot in choose.sample(range(num_slots), choose.randint(1, 6))}
    made = Layout(make_cache(num_slots), list(ends.items()), [])
    read: list[tuple[int, int]] = []  # slot and position
    for each in made.reads:
        slots = range(num_slots)[each.slots] if isinstance(each.slots, slice) else each.slots.tolist()
        read += [(slot, position) for slot in slots for position in range(SLOT_TOKENS + PAGE)[each.seen]]
    assert len(set(read)) == len(read)
    assert {(slot, position) for slot, end in ends.items() for position in range(end + 1)} <= set(read)


def test_a_copied_prefix_is_the_same_and_what_follows_it_stays() -> None:
    cache = make_cache(3)
    history = fill(cache, {0: 50, 2: 50})
    cache.copy(0, 2, 37)
    for layer in cache.layers:
        keys, values = layer.first(slice(2, 3), 50)
        for found, source, target in zip((keys[0], values[0]), history[0], history[2], strict=True):
            torch.testing.assert_close(found.transpose(0, 1), torch.cat([source[:37], target[37:]]))


def test_a_budget_holds_whole_pages() -> None:
    one = 2 * 2 * KV_HEADS * DIM * 4 * 256  # both layers' keys and values of one page
    assert bytes_per_slot(CONFIG, 100, torch.float32, "cpu") == one
    assert bytes_per_slot(CONFIG, 257, torch.float32, "cpu") == 2 * one
    assert bytes_per_slot(CONFIG, 257, torch.float32, "cuda:0") == one // 256 * 257
    assert num_slots_in(5 * one + 1, CONFIG, 100, torch.float32, "cpu") == 5


def test_a_budget_for_not_one_sequence_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(
        ModelLoadError, match=r"kv_cache_mb 0 holds no sequence: one of 100 tokens takes 0 MB; raise it or lower model\.max_context"
    ):
        num_slots_in(10, CONFIG, 100, torch.float32, "cpu")


def test_a_cache_that_memory_does_not_hold_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(
        ModelLoadError, match=r"100000000 slots x 112 tokens x 2 x 2 layers x 2 heads x 8 x 4 bytes\), and [\d,]+ MB are free; lower"
    ):
        make_cache(100_000_000)
