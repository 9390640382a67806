"""How fast something drains, and so when a refused caller should come back. Decides only. Tests: tests/fast/test_drain.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MIN_RETRY_S, MAX_RETRY_S = 1.0, 600.0
GUESS_S = 5.0  # until two endings have been seen


class Drain:
    """Remembers the last endings; `now` is any clock in seconds."""

    def __init__(self, now: Callable[[], float], remembered: int = 64) -> None:
        self._now = now
        self._ended_at: deque[float] = deque(maxlen=remembered)

    def ended(self) -> None:
        """One of them is done."""
        self._ended_at.append(self._now())

    def retry_after_s(self) -> float:
        """Seconds until one more has probably ended, from the rate of the last endings."""
        if len(self._ended_at) < 2:
            return GUESS_S
        each_s = (self._now() - self._ended_at[0]) / len(self._ended_at)
        return min(MAX_RETRY_S, max(MIN_RETRY_S, each_s))
