"""The hottest answers in the memory of one AnswerCache replica, bounded in bytes.

The library is moka-py: TinyLFU admission (Einziger, Friedman, Manes: https://arxiv.org/abs/1512.00727), so that a run of questions asked
once does not push out those asked always, and a weigher, so that the bound is in bytes. Looked at as well: theine has the same policy but
counts entries, whose sizes here differ a thousandfold; cachebox and cachetools weigh but offer LRU and plain LFU.
Tests: tests/fast/test_layers.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from moka_py import Moka

from serve_app.messages import Selection
from serve_app.store.answers import StoredAnswer

ENTRY_BYTES = 1_000  # of an answer beside its text: the objects around it, and the library's share
CANDIDATE_BYTES = 250  # of a log-probability, likewise

_Kept = tuple[StoredAnswer, float]


class Memory:
    """Answers by key. `now` is any clock in seconds that does not go back; an entry is believed for `ttl_s`, then forgotten.

    `epoch` counts what was forgotten by order: what was read before an order must not come in after it, so `fill` takes the epoch of the
    moment when the reading began. All calls come from one event loop.
    """

    def __init__(self, max_bytes: int, ttl_s: float, now: Callable[[], float]) -> None:
        self._now = now
        self._limits = (max_bytes, ttl_s)
        self._entries = _made(max_bytes)
        self.epoch = 0

    def tune(self, max_bytes: int, ttl_s: float) -> None:
        """Take new limits over; another size begins empty."""
        if max_bytes != self._limits[0]:
            self._entries = _made(max_bytes)
        self._limits = (max_bytes, ttl_s)

    def get(self, key: str) -> StoredAnswer | None:
        """The answer, if it is here and still believed."""
        kept = self._entries.get(key) if self._entries is not None else None
        if kept is None:
            return None
        if self._now() >= kept[1]:
            self._drop(key)
            return None
        return kept[0]

    def fill(self, answer: StoredAnswer, epoch: int) -> None:
        """Take an answer in that was read or made since `epoch`, unless there is a newer one."""
        if self._entries is None or epoch != self.epoch:
            return
        kept = self._entries.get(answer.key)
        if kept is None or kept[0].created_at <= answer.created_at:
            self._entries.set(answer.key, (answer, self._now() + self._limits[1]))

    def forget(self, selection: Selection) -> None:
        """Drop at least these: one key, or else everything, which the store gives back where it still has it."""
        self.epoch += 1
        if self._entries is None:
            return
        if selection == Selection(key=selection.key) and selection.key is not None:
            self._drop(selection.key)
        else:
            self._entries.clear()

    def totals(self) -> tuple[int, int]:
        """Entries and bytes."""
        if self._entries is None:
            return 0, 0
        self._entries.run_pending_tasks()
        return self._entries.count(), self._entries.weighted_size()

    def _drop(self, key: str) -> None:
        if self._entries is not None:
            self._entries.remove(key)


def _made(max_bytes: int) -> Moka[str, _Kept] | None:
    return Moka(max_bytes, weigher=_weight) if max_bytes else None


def _weight(_key: str, kept: _Kept) -> int:
    answer = kept[0]
    num_candidates = sum(1 + len(token.top) for token in answer.logprobs)
    return sys.getsizeof(answer.text) + num_candidates * CANDIDATE_BYTES + ENTRY_BYTES
