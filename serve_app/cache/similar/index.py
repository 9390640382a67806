"""Known questions as rows of one matrix, and the nearest of a group by cosine similarity. All calls from one thread.

Every row is compared, exactly: 10,000 rows of 384 numbers take 0.1 ms, and an approximate index would be a second thing that can
be wrong. Tests: tests/fast/test_similar_index.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from serve_app.cache.similar.embedding import Vectors


@dataclass(frozen=True, slots=True)
class Known:
    """A question whose answer is stored under `key`. Only those of one `group` may stand for each other."""

    key: str
    group: str
    question: str


class Index:
    """At most `max_entries` questions; where there is no room, the least recently used one goes."""

    def __init__(self, dim: int, max_entries: int) -> None:
        self._max_entries = max_entries
        self._vectors: Vectors = np.zeros((0, dim), dtype=np.float32)
        self._groups: np.ndarray[tuple[int], np.dtype[np.int64]] = np.zeros(0, dtype=np.int64)  # -1: an empty row
        self._rows: dict[str, int] = {}  # key -> row, the least recently used first
        self._known: dict[int, Known] = {}
        self._numbers: dict[str, int] = {}  # group -> what stands for it in _groups
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def add(self, known: Known, vector: Vectors) -> None:
        """Remember a question; one with the same key is replaced."""
        self.remove(known.key)
        while len(self._rows) >= self._max_entries:
            self.remove(next(iter(self._rows)))
        if not self._free:
            self._grow()
        row = self._free.pop()
        self._rows[known.key] = row
        self._known[row] = known
        self._vectors[row] = vector
        self._groups[row] = self._numbers.setdefault(known.group, len(self._numbers))

    def remove(self, key: str) -> None:
        """Forget a question."""
        row = self._rows.pop(key, None)
        if row is not None:
            del self._known[row]
            self._groups[row] = -1
            self._free.append(row)

    def used(self, key: str) -> None:
        """It has just served: it goes last."""
        if key in self._rows:
            self._rows[key] = self._rows.pop(key)

    def nearest(self, group: str, vector: Vectors, threshold: float, limit: int) -> list[tuple[Known, float]]:
        """Those of the group at or above the threshold, the most similar first, at most `limit`."""
        return list(self._nearest(group, vector, threshold, limit))

    def _nearest(self, group: str, vector: Vectors, threshold: float, limit: int) -> Iterator[tuple[Known, float]]:
        number = self._numbers.get(group)
        if number is None:
            return
        similarities = self._vectors @ vector
        near = np.flatnonzero((self._groups == number) & (similarities >= threshold))
        for row in near[np.argsort(-similarities[near], kind="stable")][:limit]:
            yield self._known[int(row)], float(similarities[row])

    def _grow(self) -> None:
        old = len(self._vectors)
        more = min(self._max_entries, max(256, 2 * old)) - old
        self._vectors = np.vstack([self._vectors, np.zeros((more, self._vectors.shape[1]), dtype=np.float32)])
        self._groups = np.concatenate([self._groups, np.full(more, -1, dtype=np.int64)])
        self._free = list(range(old + more - 1, old - 1, -1))
