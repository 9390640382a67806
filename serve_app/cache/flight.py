"""One answer in the making and everybody who waits for it: late callers replay what exists, then follow live.

It knows no storage and no rules (`flights.py` and `answers.py` do). A slow reader delays nobody and holds nothing: what was said is kept
once, as text and log-probabilities, and a reader is a place in it; so a flight's memory is its answer's, however many pieces it came in
and whoever is behind. Tests: tests/fast/test_flight.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from serve_app.logprobs import TokenLogprob
from serve_app.messages import Chunk, Failed, Finish, Item
from serve_app.store.answers import StoredAnswer


@dataclass(frozen=True, slots=True)
class _Place:
    """How far somebody has read: characters, tokens, log-probabilities."""

    chars: int = 0
    tokens: int = 0
    logprobs: int = 0


class Flight:
    """Chunks of one answer, in order, and one ending; all calls on one event loop.

    `keep`: somebody who waits allows it to be stored, for `ttl_s` if that is not None. `held`: the stored answer that its first caller saw
    and would not take, or None; where it has not `looked`, there may be one that nobody has seen. `background`: it goes on though nobody
    waits.
    """

    def __init__(
        self,
        key: str,
        request_id: str = "",
        *,
        interactive: bool = True,
        keep: bool = False,
        ttl_s: float | None = None,
        background: bool = False,
    ) -> None:
        self.key = key
        self.request_id = request_id  # of the generation, where there is one
        self.interactive = interactive  # somebody who waits is a person
        self.keep = keep
        self.ttl_s = ttl_s
        self.background = background
        self.looked = False
        self.held: StoredAnswer | None = None
        self.followers = 0
        self.stored: StoredAnswer | None = None  # set by `open` where it is an answer that was stored
        self.similarity: float | None = None  # and where that answers a question that means the same
        self.task: asyncio.Task[None] | None = None
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._end = _Place()
        self._newest: tuple[_Place, Chunk] | None = None  # and where it begins: those who keep up share it
        self._ending: Finish | Failed | None = None
        self._opened = asyncio.Event()
        self._changed = asyncio.Event()

    @classmethod
    def of(cls, stored: StoredAnswer) -> Flight:
        """A stored answer as a flight that has landed."""
        flight = cls(stored.key)
        flight.open(stored)
        return flight

    def open(self, stored: StoredAnswer | None, similarity: float | None = None) -> None:
        """Say how the answer comes about: it is this stored one, of a question so similar; or None: it is being generated."""
        self.stored, self.similarity = stored, similarity
        self._opened.set()
        if stored is not None:
            self.push(Chunk(stored.text, stored.finish.usage.completion_tokens, stored.logprobs))
            self.push(stored.finish)

    async def opened(self) -> None:
        """Wait until it is known how the answer comes about."""
        await self._opened.wait()

    @property
    def ended(self) -> bool:
        """True once it has its ending."""
        return self._ending is not None

    def push(self, item: Item) -> None:
        """Add an item; nothing may follow an ending."""
        assert not self.ended, "a flight has one ending"
        if isinstance(item, Chunk):
            self._newest = self._end, item
            self._text += item.text  # 1 µs at 100,000 characters; a list of the pieces would be twelve times the text
            self._logprobs += item.logprobs
            before = self._end
            self._end = _Place(before.chars + len(item.text), before.tokens + item.num_tokens, before.logprobs + len(item.logprobs))
        elif isinstance(item, Finish | Failed):
            self._ending = item
        self._opened.set()
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[Item]:
        """Everything from the beginning, up to the ending; what waits for a reader is handed over as one chunk."""
        place = _Place()
        while True:
            changed = self._changed
            if place != self._end:
                chunk, place = self._since(place), self._end
                yield chunk
            elif self._ending is not None:
                yield self._ending
                return
            else:
                await changed.wait()

    def so_far(self) -> Chunk:
        """Everything up to now, as one chunk."""
        return self._since(_Place())

    def _since(self, place: _Place) -> Chunk:
        if self._newest is not None and self._newest[0] == place:
            return self._newest[1]
        return Chunk(self._text[place.chars :], self._end.tokens - place.tokens, tuple(self._logprobs[place.logprobs :]))
