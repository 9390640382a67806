"""One answer in the making and everybody who waits for it: late callers replay what exists, then follow live.

A flight is first a look into the store, then, where that finds nothing, a generation. It knows no storage and no rules (`answers.py` does).
A slow reader delays nobody: each has its own place in the list of items. Tests: tests/fast/test_answers.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

from serve_app.messages import Chunk, Failed, Finish, Item


class Flight:
    """Items of one answer, in order; all calls on one event loop."""

    def __init__(self, key: str, request_id: str, *, interactive: bool, keep: bool) -> None:
        self.key = key
        self.request_id = request_id  # of the generation, where there is one
        self.interactive = interactive  # somebody who waits is a person
        self.keep = keep  # somebody who waits allows it to be stored
        self.followers = 0
        self.age_s: float | None = None  # set by `open` where the answer was stored
        self.similarity: float | None = None  # and where it is the answer to a question that means the same
        self.shown_key = key  # of the answer itself
        self.task: asyncio.Task[None] | None = None
        self._items: list[Item] = []
        self._opened = asyncio.Event()
        self._changed = asyncio.Event()

    def open(self, age_s: float | None, key: str | None = None, similarity: float | None = None) -> None:
        """Say how the answer comes about: stored `age_s` seconds ago, or None: it is being generated. `key` and `similarity`: it is
        stored under another key, that of a question so similar."""
        self.age_s, self.similarity, self.shown_key = age_s, similarity, key or self.key
        self._opened.set()

    async def opened(self) -> None:
        """Wait until it is known whether the answer was stored."""
        await self._opened.wait()

    @property
    def ended(self) -> bool:
        """True once it has its ending."""
        return bool(self._items) and isinstance(self._items[-1], Finish | Failed)

    def push(self, item: Item) -> None:
        """Add an item; nothing may follow an ending."""
        assert not self.ended, "a flight has one ending"
        self._items.append(item)
        self._opened.set()
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[Item]:
        """All items from the first one on, up to the ending; what waits is handed over as one chunk."""
        seen = 0
        while True:
            waiting, changed = self._items[seen:], self._changed
            seen += len(waiting)
            for item in merged(waiting):
                yield item
                if isinstance(item, Finish | Failed):
                    return
            if seen == len(self._items):
                await changed.wait()

    def so_far(self) -> Chunk:
        """Everything up to now, as one chunk."""
        return Chunk.joined([item for item in self._items if isinstance(item, Chunk)])


def merged(items: Iterable[Item]) -> Iterator[Item]:
    """The same items with neighbouring chunks made one."""
    chunks: list[Chunk] = []
    for item in items:
        if isinstance(item, Chunk):
            chunks.append(item)
            continue
        if chunks:
            yield Chunk.joined(chunks)
            chunks = []
        yield item
    if chunks:
        yield Chunk.joined(chunks)
