"""Pure: when a store that fails is asked again, so that one that is down costs a request nothing and not its timeout each time.

Knows no store and no clock but the times it is given, in seconds, which must not go back. The pattern is Nygard's circuit breaker (Release
It!, 2007); its half-open state is one call let through per wait. Tests: tests/fast/test_circuit.py.
"""

from __future__ import annotations

FAILURES_TO_OPEN = 3  # in a row: one lost connection is not yet an outage
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 4.0  # doubling


class Circuit:
    """Ask `allows` before a call, and say afterwards whether it `worked` or `failed`; a call that was cancelled says nothing."""

    def __init__(self) -> None:
        self._failures = 0
        self._opened_at: float | None = None
        self._wait_s = FIRST_WAIT_S
        self._next_at = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """True while calls are held back."""
        return self._opened_at is not None

    def allows(self, now: float) -> bool:
        """Whether to make the call; while the circuit is open, one per wait."""
        if self._opened_at is None:
            return True
        if now < self._next_at:
            return False
        self._next_at, self._trying = now + self._wait_s, True
        return True

    def failed(self, now: float) -> bool:
        """True where this opens the circuit."""
        self._failures += 1
        if self._opened_at is not None:
            if self._trying:  # else it is one of the many that were under way when the circuit opened
                self._wait_s = min(2 * self._wait_s, MOST_WAIT_S)
                self._next_at, self._trying = now + self._wait_s, False
            return False
        if self._failures < FAILURES_TO_OPEN:
            return False
        self._opened_at, self._next_at = now, now + self._wait_s
        return True

    def worked(self, now: float) -> float | None:
        """For how long the circuit was open, where this closes it."""
        was_down_s = None if self._opened_at is None else now - self._opened_at
        self._failures, self._opened_at, self._wait_s = 0, None, FIRST_WAIT_S
        return was_down_s
