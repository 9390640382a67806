"""The waiting line of an engine: who is next, and when a refused caller should come back.

Decides only; takes data and a time and touches neither threads nor tensors. Tests: tests/engine/test_engine.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from serve_app.model.rows import Row
from serve_app.settings import ModelTuning

MIN_RETRY_S, MAX_RETRY_S = 1.0, 600.0


def rank(row: Row, tuning: ModelTuning, now: float) -> int:
    """0 for an interactive row and for one that has starved, 1 for the others; among equals the first come is first."""
    starved = now - row.stream.arrived_at > tuning.batch_starvation_s
    return 0 if row.stream.priority == "interactive" or starved else 1


def next_batch(waiting: Sequence[Row], tuning: ModelTuning, now: float, max_positions: int) -> list[Row]:
    """Who runs next: interactive before batch priority, first come first served within; one that has starved counts as interactive.

    Rows of one static batch share its width, so a row joins only where the longest prompt and the longest answer together stay within
    `max_positions`: beyond it a model with learned positions fails the whole batch. The first row always runs.
    """

    batch: list[Row] = []
    width = steps = 0
    for row in sorted(waiting, key=lambda row: rank(row, tuning, now)):  # stable: keeps the order of arrival within a rank
        wider, longer = max(width, len(row.prompt_ids)), max(steps, row.max_tokens)
        if batch and wider + longer > max_positions:
            continue
        batch.append(row)
        width, steps = wider, longer
        if len(batch) == tuning.max_batch_size:
            break
    return batch


class DrainRate:
    """Requests per second of engine time, over the last batches."""

    def __init__(self, guess_s: float) -> None:
        """`guess_s`: engine seconds for one request, until something has been measured."""
        self._guess_s = guess_s
        self._batches: deque[tuple[int, float]] = deque(maxlen=16)

    def add(self, num_requests: int, seconds: float) -> None:
        """A batch is done."""
        self._batches.append((num_requests, seconds))

    def retry_after_s(self, num_waiting: int) -> float:
        """Seconds until those who wait now have been served, rounded up to whole seconds as the header wants it."""
        seconds = sum(seconds for _, seconds in self._batches)
        each_s = seconds / sum(num for num, _ in self._batches) if self._batches else self._guess_s
        return float(min(MAX_RETRY_S, max(MIN_RETRY_S, -(-num_waiting * each_s // 1))))
