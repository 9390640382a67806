"""What AnswerCache did since the last flush, ready to be added to the ledger and to the metrics.

Each caller is one request of its outcome; each generation's cost is booked once, whoever waited for it.
Tests: tests/fast/test_books.py, test_answers.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from serve_app.messages import REUSED, Ask, Finish, Outcome
from serve_app.metrics import Metrics
from serve_app.store.ledger import Ledger, LedgerRow

Made = Outcome | Literal["refresh", "shadow"]  # nobody asked: to replace a stale answer, or to measure the similarity lookup


class Books:
    """Sums by hour, model, feed, outcome and ending. `now` is Unix time."""

    def __init__(self, metrics: Metrics, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._now = now
        self._rows: dict[tuple[object, ...], LedgerRow] = {}

    def caller(self, ask: Ask, outcome: Outcome, ending: str, finish: Finish | None, latency_s: float, age_s: float | None = None) -> None:
        """Somebody got an answer, or its error, or left. `finish` is the generation's own, also for a hit or a join; `age_s` is that of a
        stored answer."""
        model, feed = ask.generate.model, ask.feed_id
        avoided_s = finish.compute_s if finish and outcome in REUSED else 0.0
        usage = finish.usage if finish else None
        self._add(
            ask,
            outcome,
            ending,
            requests=1,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            avoided_s=avoided_s,
            latency_s=latency_s,
        )
        self._metrics.inc("frugal_cache_requests_total", model=model, feed=feed, outcome=outcome)
        self._metrics.inc("frugal_cache_tokens_total", usage.completion_tokens if usage else 0, model=model, feed=feed, outcome=outcome)
        self._metrics.inc("frugal_cache_avoided_compute_seconds_total", avoided_s, model=model, feed=feed)
        if age_s is not None:
            self._metrics.observe("frugal_cache_age_seconds", age_s, model=model, feed=feed)
        self._metrics.observe("frugal_cache_answer_seconds", latency_s, outcome=outcome)

    def refused(self, ask: Ask) -> None:
        """Somebody was turned away before an answer began: too many at once, or no model yet."""
        self._add(ask, "refused", "error", requests=1)
        self._metrics.inc("frugal_cache_requests_total", model=ask.generate.model, feed=ask.feed_id, outcome="refused")

    def generation(self, ask: Ask, outcome: Made, finish: Finish) -> None:
        """A generation ended and cost something."""
        self._add(ask, outcome, finish.reason, compute_s=finish.compute_s, alone_s=finish.alone_s, cost_usd=finish.cost_usd)

    def take(self) -> list[LedgerRow]:
        """Everything since the last take."""
        rows, self._rows = list(self._rows.values()), {}
        return rows

    def give_back(self, rows: list[LedgerRow]) -> None:
        """Put rows back that could not be stored."""
        for row in rows:
            self._rows.setdefault(row.key, LedgerRow(*row.key)).add(row)  # type: ignore[arg-type]

    def _add(self, ask: Ask, outcome: str, ending: str, **sums: float) -> None:
        hour = int(self._now()) // 3600 * 3600
        row = LedgerRow(hour, ask.generate.model, ask.feed_id, outcome, ending, **sums)  # type: ignore[arg-type]
        self.give_back([row])


async def flush(books: Books, ledger: Ledger) -> None:
    """Bring books to the ledger, one call at a time. What cannot be stored goes back, and the error on."""
    rows = books.take()
    try:
        if rows:  # shielded: a cancelled flush is still committed, so its rows must not come back
            await asyncio.shield(asyncio.to_thread(ledger.add, rows))
    except Exception:
        books.give_back(rows)
        raise
