"""Which packed token of a step belongs to which position of which slot, and what it may look at.

    | one token of each decoding sequence, and its guesses | chunk of a prompt | chunk of another prompt |
      0 ................................... len(decodes)

Made once per step; all layers share it. Knows slots and positions; must not know how attention is computed (attention.py).
Tests: tests/engine/test_attention.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from serve_app.model.kvcache import Rows, SlotCache

QUERIES = 128  # of a chunk that are computed at once on a CPU, against the keys up to the last of them
MAX_SPREAD = 2  # reading twice the slots in place still costs less than copying the wanted ones together
NEARLY_ALL = 0.9  # of the slots: then all of them are rows, and their pages one product
TAIL_TOKENS = 64  # copying these out of a page costs less than reading all of it; always so many, because each shape has kernels of its own


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


@dataclass(frozen=True, slots=True)
class Read:
    """Pages of the cache that one product reads for some rows: the first `num_tokens` of each page, which are the positions `seen`."""

    pages: slice
    rows: Rows
    slots: Rows  # of those rows
    num_tokens: int
    seen: slice


@dataclass(slots=True)
class Layout:
    """Which packed token belongs where, for one step.

    A *row* is one slot that is read for decoding tokens: that of a sequence, or one between theirs that is read along. It has `width`
    queries, the most that any sequence decodes; of most rows in most steps it is one.
    """

    cache: SlotCache
    decodes: Sequence[tuple[int, int]]  # slot and position of each decoding token, in their packed order; those of a slot in a row
    segments: Sequence[Segment]
    positions: Tensor = field(init=False)  # of the decoding tokens
    places: Tensor = field(init=False)  # of the decoding tokens in a layer of the cache
    num_rows: int = field(init=False)
    width: int = field(init=False)
    is_whole: bool = field(init=False)  # the decoding tokens are the rows' queries as they come
    at: Tensor = field(init=False)  # each decoding token's query: row * width + its number in the row
    reads: list[Read] = field(init=False)  # all pages that any row reaches, in their order; the first is for every row
    _first_slot: int | None = field(init=False)  # the rows are neighbouring slots from here on; None: those of `_row_slots`
    _row_slots: Tensor = field(init=False)
    _biases: dict[int, Tensor] = field(init=False, default_factory=dict)
    _blocks: dict[tuple[int, int], list[Block]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        device = self.cache.device
        decoding = torch.tensor([slot for slot, _ in self.decodes], device=device, dtype=torch.long)
        self.positions = torch.tensor([position for _, position in self.decodes], device=device, dtype=torch.long)
        self.places = self.cache.places(decoding, self.positions)
        last: dict[int, int] = {}  # slot -> its last decoding position
        numbers: list[int] = []  # of each decoding token in its row
        for slot, position in self.decodes:
            numbers.append(numbers[-1] + 1 if slot in last else 0)
            last[slot] = position
        slots = list(last)
        first, stop = (min(slots), max(slots) + 1) if slots else (0, 0)
        near = stop - first <= MAX_SPREAD * len(slots)
        if slots and stop - first >= NEARLY_ALL * self.cache.num_slots:
            first, stop, near = 0, self.cache.num_slots, True  # nearly all are all: see _read
        self._first_slot = first if near else None
        self._row_slots = torch.tensor(slots, device=device)
        self.num_rows = stop - first if near else len(slots)
        row_of = {slot: slot - first if near else number for number, slot in enumerate(slots)}
        self.width = max(numbers, default=0) + 1
        at = [row_of[slot] * self.width + number for (slot, _), number in zip(self.decodes, numbers, strict=True)]
        self.at = torch.tensor(at, device=device)
        self.is_whole = at == list(range(self.num_rows * self.width))
        ends = [(row_of[slot], position) for slot, position in last.items()]
        self.reads = []
        for start in range(0, max(last.values(), default=-1) + 1, self.cache.page_tokens):
            self._read(start, ends)

    @property
    def num_seen(self) -> int:
        """Of how many positions every row's scores are computed, masked or not."""
        return self.reads[-1].seen.stop if self.reads else 0

    @property
    def is_even(self) -> bool:
        """Every read is for every row."""
        return all(isinstance(read.rows, slice) and read.rows == slice(0, self.num_rows) for read in self.reads)

    def _read(self, start: int, ends: list[tuple[int, int]]) -> None:
        """The page from that position on, of the rows that reach it; together with the one before it where both are read of all slots."""
        size = self.cache.page_tokens
        number, reaching = start // size, [row for row, position in ends if position >= start]
        first, stop = min(reaching), max(reaching) + 1
        everything = self.cache.all_slots
        rows: Rows = slice(first, stop)
        if self.num_rows == everything.stop and stop - first >= NEARLY_ALL * everything.stop:
            rows = everything
        elif stop - first > MAX_SPREAD * len(reaching):
            rows = torch.tensor(reaching, device=self.positions.device)
        num = TAIL_TOKENS if max(position for _, position in ends) < start + TAIL_TOKENS < start + size else size
        before = self.reads[-1] if self.reads else None
        if before is not None and all(each is everything for each in (before.rows, rows)) and num == size:
            self.reads[-1] = replace(before, pages=slice(before.pages.start, number + 1), seen=slice(before.seen.start, start + size))
        else:
            self.reads.append(Read(slice(number, number + 1), rows, self.slots_of(rows), num, slice(start, start + num)))

    def slots_of(self, rows: Rows) -> Rows:
        """The slots of some rows."""
        if self._first_slot is None:
            return self._row_slots[rows]
        if isinstance(rows, slice):
            return slice(self._first_slot + rows.start, self._first_slot + rows.stop)
        return rows + self._first_slot

    def bias(self, window: int) -> Tensor:
        """[rows, 1, width, 1, positions], 0 where a query may look and -inf where not; `window` 0: everything before it."""
        if window not in self._biases:
            device = self.positions.device
            last = torch.zeros(self.num_rows * self.width, dtype=torch.long, device=device)  # queries of nobody must see something, too
            last[self.at] = self.positions
            at, last = torch.arange(self.num_seen, device=device), last[:, None]
            hidden = at > last
            if window:
                hidden |= at <= last - window
            self._biases[window] = self._minus_inf(hidden).view(self.num_rows, 1, self.width, 1, -1)
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
