"""Finished answers that Ingress may replay for some seconds without asking: read-only, and AnswerCache decides.

With each answer that it stored or found stored, AnswerCache says in `Opening.replay_s` for how long it may stand for the next identical
question (0: not at all). That saves two processes their part of a popular answer: on two cores, half of its time and twice the requests.
Repeatable questions only, so that what one caller allowed for a sampled answer never reaches another. Tests: tests/fast/test_replays.py.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from cachetools import LRUCache

from serve_app.cache.books import Books
from serve_app.cache.key import shard_key
from serve_app.cache.rules import Held, Limits, decide, wants_stored
from serve_app.messages import Answer, Ask, Chunk, Finish, Item, Opening
from serve_app.metrics import Metrics

ENTRY_BYTES = 1_000  # of an answer beside its text
CANDIDATE_BYTES = 250  # of a log-probability: the objects around a few bytes and a number


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Answer
    made_at: float
    until: float


class Replays:
    """`now` is Unix time. Everybody who gets a replay is a hit in `books`, as if AnswerCache had answered."""

    def __init__(self, max_bytes: int, metrics: Metrics, now: Callable[[], float]) -> None:
        self._entries: LRUCache[str, _Entry] = LRUCache(max_bytes, getsizeof=_size)
        self._now = now
        self.books = Books(metrics, now)

    def find(self, ask: Ask) -> Answer | None:
        """The answer, if one may be replayed to this caller now."""
        began = time.monotonic()
        entry = self._entries.get(shard_key(ask)) if wants_stored(ask.policy, shared=_may_share(ask)) else None
        if entry is None:
            return None
        now = self._now()
        # Fresh for as long as it may be replayed, at least: who wants to know better (min-fresh, max-stale) is answered by AnswerCache.
        limits = Limits(entry.until - entry.made_at)
        decision = decide(ask.policy, Held(entry.made_at), limits, now, live=False, shared=_may_share(ask))
        if decision.state != "hit" or now >= entry.until:
            return None
        opening = replace(entry.answer.opening, outcome="hit", age_s=decision.age_s)
        finish = entry.answer.finish
        self.books.caller(ask, "hit", finish.reason, finish, time.monotonic() - began, decision.age_s)
        return replace(entry.answer, opening=opening)

    def keep(self, ask: Ask, answer: Answer) -> None:
        """Remember an answer that has just come, for as long as it says."""
        opening = answer.opening
        entry = _Entry(answer, self._now() - (opening.age_s or 0.0), self._now() + opening.replay_s)
        if opening.replay_s > 0 and _may_share(ask) and answer.finish.reason != "cancelled" and _size(entry) <= self._entries.maxsize:
            self._entries[shard_key(ask)] = entry

    def clear(self) -> None:
        """Replay nothing of what was kept up to now."""
        self._entries.clear()

    async def noted(self, ask: Ask, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """The same items, remembered at their good ending."""
        opening: Opening | None = None
        chunks: list[Chunk] = []
        async for item in items:
            match item:
                case Opening():
                    opening = item
                case Chunk():
                    chunks.append(item)
                case Finish() if opening is not None:
                    said = Chunk.joined(chunks)
                    self.keep(ask, Answer(opening, said.text, item, said.logprobs))
            yield item


def as_items(answer: Answer) -> tuple[Item, ...]:
    """A whole answer as a stream has it."""
    return answer.opening, Chunk(answer.text, answer.finish.usage.completion_tokens, answer.logprobs), answer.finish


def _may_share(ask: Ask) -> bool:
    return ask.generate.sampling.repeatable


def _size(entry: _Entry) -> int:
    num_candidates = sum(1 + len(token.top) for token in entry.answer.logprobs)
    return len(entry.answer.text) * 4 + num_candidates * CANDIDATE_BYTES + ENTRY_BYTES
