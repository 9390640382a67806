"""Which packed token of a step belongs to which position of which slot, and what it may look at.

    | one token of each decoding sequence, and its guesses | chunk of a prompt | chunk of another prompt |
      0 ................................... len(decodes)

Made once per step; all layers share it. Knows slots and positions; must not know how attention is computed (attention.py).
Tests: tests/engine/test_attention.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from serve_app.model.kvcache import Rows, SlotCache

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
    """Which packed token belongs where, for one step.

    A *row* is one slot that is read for decoding tokens: that of a sequence, or one between theirs that is read along. It has `width`
    queries, the most that any sequence decodes; of most rows in most steps it is one.
    """

    cache: SlotCache
    decodes: Sequence[tuple[int, int]]  # slot and position of each decoding token, in their packed order; those of a slot in a row
    segments: Sequence[Segment]
    slots: Tensor = field(init=False)  # of the decoding tokens
    positions: Tensor = field(init=False)
    num_rows: int = field(init=False)
    width: int = field(init=False)
    is_whole: bool = field(init=False)  # the decoding tokens are the rows' queries as they come
    at: Tensor = field(init=False)  # each decoding token's query: row * width + its number in the row
    pages: list[Rows] = field(init=False)  # for each page of the cache, which rows reach into it
    _first_slot: int | None = field(init=False)  # the rows are neighbouring slots from here on; None: those of `_row_slots`
    _row_slots: Tensor = field(init=False)
    _biases: dict[int, Tensor] = field(init=False, default_factory=dict)
    _blocks: dict[tuple[int, int], list[Block]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        device = self.cache.device
        self.slots = torch.tensor([slot for slot, _ in self.decodes], device=device)
        self.positions = torch.tensor([position for _, position in self.decodes], device=device)
        last: dict[int, int] = {}  # slot -> its last decoding position
        numbers: list[int] = []  # of each decoding token in its row
        for slot, position in self.decodes:
            numbers.append(numbers[-1] + 1 if slot in last else 0)
            last[slot] = position
        slots = list(last)
        first, stop = (min(slots), max(slots) + 1) if slots else (0, 0)
        near = stop - first <= MAX_SPREAD * len(slots)
        self._first_slot = first if near else None
        self._row_slots = torch.tensor(slots, device=device)
        self.num_rows = stop - first if near else len(slots)
        row_of = {slot: slot - first if near else number for number, slot in enumerate(slots)}
        self.width = max(numbers, default=0) + 1
        at = [row_of[slot] * self.width + number for (slot, _), number in zip(self.decodes, numbers, strict=True)]
        self.at = torch.tensor(at, device=device)
        self.is_whole = at == list(range(self.num_rows * self.width))
        ends = [(row_of[slot], position) for slot, position in last.items()]
        num_pages = max(last.values(), default=-1) // self.cache.page_tokens + 1
        self.pages = [self._page(number * self.cache.page_tokens, ends) for number in range(num_pages)]

    def _page(self, start: int, ends: list[tuple[int, int]]) -> Rows:
        """Which rows reach that position."""
        reaching = [row for row, position in ends if position >= start]
        first, last = min(reaching), max(reaching)
        if last - first + 1 <= MAX_SPREAD * len(reaching):
            return slice(first, last + 1)
        return torch.tensor(reaching, device=self.positions.device)

    def slots_of(self, rows: Rows) -> Rows:
        """The slots of some rows."""
        if self._first_slot is None:
            return self._row_slots[rows]
        if isinstance(rows, slice):
            return slice(self._first_slot + rows.start, self._first_slot + rows.stop)
        return rows + self._first_slot

    def bias(self, window: int) -> Tensor:
        """[rows, 1, width, 1, pages * page tokens], 0 where a query may look and -inf where not; `window` 0: everything before it."""
        if window not in self._biases:
            device = self.positions.device
            last = torch.zeros(self.num_rows * self.width, dtype=torch.long, device=device)  # queries of nobody must see something, too
            last[self.at] = self.positions
            at, last = torch.arange(len(self.pages) * self.cache.page_tokens, device=device), last[:, None]
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
