"""An engine's books: every second of its thread goes to the start, to steps (`used`) or to waiting (`idle`), and every step to its rows.

Shared by the engines; free of torch. Only the engine's thread says what it does; `account_now`, `finish` and `fail` may be called by any
thread. Tests: tests/engine/test_engine_books.py and tests/engine/test_engine.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from serve_app.errors import FrugalError
from serve_app.messages import Failed, FinishReason, ModelCard
from serve_app.metrics import Metrics
from serve_app.model.engine import Account, Ending
from serve_app.model.rows import Row


class Books:
    """Account and metrics of one engine. `ready` comes first, `idle` and `busy` around each wait, `step` after each step, `over` last."""

    def __init__(
        self, card: ModelCard, price_per_hour_usd: float, metrics: Metrics, clock: Callable[[], float], started_at: float | None
    ) -> None:
        self.price_per_hour_usd = price_per_hour_usd
        self._card = card
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._account = Account()
        self._mark = clock() if started_at is None else started_at  # up to here the time is in the account
        self._doing: Literal["starting", "waiting", "working", "over"] = "starting"

    def account_now(self) -> Account:
        """A copy up to now: a prefill takes seconds, and a process that is killed in it has written nothing later."""
        with self._lock:
            self._settle_idle()
            account = replace(self._account)
            if self._doing == "starting":
                account.startup_s = self._clock() - self._mark
            elif self._doing == "working":
                account.used_s += self._clock() - self._mark
            return account

    def ready(self) -> None:
        """The start is over: the loop looks for work for the first time."""
        with self._lock:
            self._account.startup_s = self._since_mark()
            self._doing = "working"
        self._metrics.set("frugal_engine_startup_seconds", self._account.startup_s)

    def idle(self) -> None:
        """The loop begins to wait."""
        with self._lock:
            self._use(self._since_mark())
            self._doing = "waiting"

    def busy(self) -> None:
        """The wait is over."""
        with self._lock:
            self._settle_idle()
            self._doing = "working"

    def over(self) -> None:
        """The loop has ended: no time passes any more."""
        with self._lock:
            self._use(self._since_mark())
            self._doing = "over"

    def waiting(self, num: int) -> None:
        """So many requests wait now."""
        self._account.waiting = num
        self._metrics.set("frugal_engine_waiting", num)

    def limits(self, max_live: int, chunk_tokens: int) -> None:
        """What the next step may take on."""
        self._metrics.set("frugal_engine_max_live_rows", max_live)
        self._metrics.set("frugal_engine_chunk_tokens", chunk_tokens)

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
            self._share(seconds, live, weights)
        model = self._card.id
        self._metrics.observe("frugal_engine_step_seconds", seconds, phase=phase)
        self._metrics.inc("frugal_engine_rows_total", len(live), kind="live")
        self._metrics.inc("frugal_engine_rows_total", num_wasted, kind="wasted")
        self._metrics.inc("frugal_engine_completion_tokens_total", len(live), model=model)
        if phase == "prefill":
            self._metrics.inc("frugal_engine_prompt_tokens_total", sum(weights), model=model)
        return self._mark

    def join(self, row: Row, num_running: int) -> None:
        """A row joins the running batch, which has so many rows now."""
        now = self._clock()
        self._metrics.observe("frugal_engine_queue_seconds", now - row.stream.arrived_at)
        self._metrics.observe("frugal_engine_batch_size", num_running)
        row.start(now, num_running)

    def packed_step(self, work: Sequence[tuple[Row, float]], num_prompt: int, num_tokens: int, num_wasted: int = 0) -> float:
        """A step of an in-flight batch is over: share its time by the weight of each row's part; the time now.

        So many prompt tokens were computed, and `num_tokens` rows got a token; `num_wasted` more rows had ended before it was over.
        """
        with self._lock:
            seconds = self._since_mark()
            self._use(seconds)
            self._account.steps += 1
            self._account.rows += len(work)
            self._account.wasted_rows += num_wasted
            self._share(seconds, [row for row, _ in work], [weight for _, weight in work])
        self._metrics.observe("frugal_engine_step_seconds", seconds, phase="prefill" if num_prompt else "decode")
        self._metrics.inc("frugal_engine_rows_total", len(work), kind="live")
        self._metrics.inc("frugal_engine_rows_total", num_wasted, kind="wasted")
        self._metrics.inc("frugal_engine_completion_tokens_total", num_tokens, model=self._card.id)
        self._metrics.inc("frugal_engine_prompt_tokens_total", num_prompt, model=self._card.id)
        return self._mark

    def guessed(self, num: int, num_right: int) -> None:
        """So many tokens were guessed in a step, and so many of them were right."""
        self._metrics.inc("frugal_engine_guessed_tokens_total", num_right, outcome="right")
        self._metrics.inc("frugal_engine_guessed_tokens_total", num - num_right, outcome="wrong")

    def running(self, num: int) -> None:
        """So many rows run now."""
        self._running(num)

    def broken(self, rows: Sequence[Row]) -> None:
        """A batch broke: the time since its last step is shared by those that were live."""
        with self._lock:
            seconds = self._since_mark()
            self._use(seconds)
            self._share(seconds, rows, [1] * len(rows))

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
        """The row's good ending, or that its caller has left."""
        ending = row.finish(reason, self._clock(), self._card, self.price_per_hour_usd)
        self._end(row, ending, reason, lost=reason == "cancelled")

    def fail(self, row: Row, error: FrugalError) -> None:
        """The row's bad ending, unless it has one."""
        self._end(row, Failed(error), "error", lost=True)

    def _end(self, row: Row, ending: Ending, name: str, lost: bool) -> None:
        with self._lock:  # so that the row has no more seconds than those that are counted here
            if not row.end(ending):
                return
            if lost:
                self._account.lost_s += row.seconds
        self._metrics.inc("frugal_engine_requests_total", model=self._card.id, ending=name)

    def _share(self, seconds: float, rows: Sequence[Row], weights: Sequence[float]) -> None:
        """With the lock held: divide time among rows. Those that `close` has failed meanwhile get theirs too, and it is lost."""
        whole = sum(weights)
        for row, weight in zip(rows, weights, strict=True):
            share = seconds * weight / whole
            row.seconds += share
            if not row.live:
                self._account.lost_s += share

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
        if self._doing == "waiting":
            seconds = self._since_mark()
            self._account.idle_s += seconds
            self._metrics.inc("frugal_engine_idle_seconds_total", seconds)
