"""An engine's books: every second of its thread goes to the start, to steps (`used`) or to waiting (`idle`), and every step to its rows.

Shared by the engines; free of torch. Only the engine's thread writes times; `account_now`, `finish` and `fail` may be called by any thread.
Tests: tests/fast/test_engine.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from serve_app.errors import FrugalError
from serve_app.messages import Failed, FinishReason, ModelCard
from serve_app.metrics import Metrics
from serve_app.model.engine import Account
from serve_app.model.rows import Row


class Books:
    """Account and metrics of one engine. Call `ready` once, then `idle` and `busy` around each wait, `step` after each step."""

    def __init__(
        self, card: ModelCard, price_per_hour_usd: float, metrics: Metrics, clock: Callable[[], float], started_at: float | None
    ) -> None:
        self.price_per_hour_usd = price_per_hour_usd
        self._card = card
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._account = Account()
        self._mark = clock() if started_at is None else started_at
        self._idle_since: float | None = None

    def account_now(self) -> Account:
        """A copy, with the idle time up to now."""
        with self._lock:
            self._settle_idle()
            return replace(self._account)

    def ready(self) -> None:
        """The start is over: the loop looks for work for the first time."""
        with self._lock:
            self._account.startup_s = self._since_mark()
        self._metrics.set("frugal_engine_startup_seconds", self._account.startup_s)

    def idle(self) -> None:
        """The loop begins to wait."""
        with self._lock:
            self._use(self._since_mark())
            self._idle_since = self._mark

    def busy(self) -> None:
        """The wait is over."""
        with self._lock:
            self._settle_idle()
            self._idle_since = None
            self._since_mark()

    def waiting(self, num: int) -> None:
        """So many requests wait now."""
        self._account.waiting = num
        self._metrics.set("frugal_engine_waiting", num)

    def batch(self, rows: Sequence[Row]) -> None:
        """A batch begins with its set-up, whose time is the first step's."""
        now = self._clock()
        for row in rows:
            if row.started_at is None:
                self._metrics.observe("frugal_engine_queue_seconds", now - row.stream.arrived_at)
            row.start(now, len(rows))
        self._metrics.observe("frugal_engine_batch_size", len(rows))
        self._running(len(rows))

    def step(self, phase: Literal["prefill", "decode"], live: Sequence[Row], num_wasted: int) -> float:
        """A step is over: share its time among the live rows, by prompt tokens in a prefill; the time now."""
        weights = [len(row.prompt_ids) if phase == "prefill" else 1 for row in live]
        with self._lock:
            seconds = self._since_mark()
            self._use(seconds)
            self._account.steps += 1
            self._account.rows += len(live)
            self._account.wasted_rows += num_wasted
        for row, weight in zip(live, weights, strict=True):
            row.seconds += seconds * weight / sum(weights)
        model = self._card.id
        self._metrics.observe("frugal_engine_step_seconds", seconds, phase=phase)
        self._metrics.inc("frugal_engine_rows_total", len(live), kind="live")
        self._metrics.inc("frugal_engine_rows_total", num_wasted, kind="wasted")
        self._metrics.inc("frugal_engine_completion_tokens_total", len(live), model=model)
        if phase == "prefill":
            self._metrics.inc("frugal_engine_prompt_tokens_total", sum(weights), model=model)
        return self._mark

    def broken(self, rows: Sequence[Row]) -> None:
        """A batch broke: the time since its last step is shared by those that were live."""
        with self._lock:
            seconds = self._since_mark()
            self._use(seconds)
        for row in rows:
            row.seconds += seconds / len(rows)

    def first_token(self, row: Row, now: float) -> None:
        """Its first token has come."""
        self._metrics.observe("frugal_engine_ttft_seconds", now - row.stream.arrived_at)

    def settled(self, rows: Sequence[Row]) -> None:
        """After a step: how many rows go on."""
        self._running(sum(row.live for row in rows))

    def done(self) -> None:
        """After a batch: what its end took (its memory is freed) is use that belongs to no row."""
        with self._lock:
            self._use(self._since_mark())
        self._running(0)

    def finish(self, row: Row, reason: FinishReason) -> None:
        """The row's good ending."""
        if row.end(row.finish(reason, self._clock(), self._card, self.price_per_hour_usd)):
            self._metrics.inc("frugal_engine_requests_total", model=self._card.id, ending=reason)

    def fail(self, row: Row, error: FrugalError) -> None:
        """The row's bad ending, unless it has one."""
        if row.end(Failed(error)):
            self._metrics.inc("frugal_engine_requests_total", model=self._card.id, ending="error")

    def _running(self, num: int) -> None:
        self._account.running = num
        self._metrics.set("frugal_engine_running", num)

    def _since_mark(self) -> float:
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        return seconds

    def _use(self, seconds: float) -> None:
        self._account.used_s += seconds
        self._metrics.inc("frugal_engine_used_seconds_total", seconds)

    def _settle_idle(self) -> None:
        if self._idle_since is None:
            return
        now = self._clock()
        self._account.idle_s += now - self._idle_since
        self._metrics.inc("frugal_engine_idle_seconds_total", now - self._idle_since)
        self._idle_since = now
