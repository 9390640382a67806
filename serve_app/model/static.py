"""Static batches through `generate`: the plain engine, and the baseline that the study and the benchmark compare with.

    admit (any thread) -> waiting line -> the engine's thread: next batch -> left-padded generate -> endings

A batch runs to its last row's end; rows that ended are computed on and counted as wasted. What a step does to the rows is in batch.py,
what a request must be in prompts.py, who is next in waiting.py. Tests: tests/engine/test_engine.py and tests/model/test_static.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from serve_app.metrics import Metrics
from serve_app.model.batch import run_batch
from serve_app.model.loader import LoadedModel
from serve_app.model.rows import Row
from serve_app.model.threaded import ThreadedEngine
from serve_app.model.waiting import next_batch
from serve_app.settings import ModelTuning

logger = logging.getLogger(__name__)


class StaticEngine(ThreadedEngine):
    """An `Engine` (see engine.py) over one loaded model, with one thread."""

    name = "static-engine"
    kind = "static"

    def __init__(
        self,
        loaded: LoadedModel,
        tuning: ModelTuning,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        started_at: float | None = None,
    ) -> None:
        """`started_at`: the clock at the actor's start, from which `startup_s` counts; by default now."""
        self._waiting: list[Row] = []  # guarded by _news
        self._in_hand: list[Row] = []
        super().__init__(loaded, tuning, metrics, clock, started_at)

    def promote(self, request_id: str) -> None:
        """See Engine.promote."""
        with self._news:
            for row in self._waiting:
                if row.stream.request.request_id == request_id:
                    row.stream.priority = "interactive"

    def close(self, drain_s: float) -> None:
        """See Engine.close."""
        with self._news:
            self._closing = True
            left, self._waiting = self._waiting, []
            self._books.waiting(0)
            self._news.notify()
        self._give_up(left)
        self._join(drain_s)
        self._give_up(self._in_hand)  # a thread that hangs inside a step must not hang its callers too

    @property
    def _num_waiting(self) -> int:
        return len(self._waiting)

    def _enqueue(self, row: Row) -> None:
        self._waiting.append(row)

    def _work(self) -> None:
        while not self._closing:
            self._in_hand = self._next()
            if self._in_hand:
                self._run(self._in_hand)

    def _run(self, rows: list[Row]) -> None:
        torch.set_num_threads(self._threads)  # see ThreadedEngine
        started_at = self._clock()
        self._serve(rows)
        with self._news:
            self._drain_rate.add(len(rows), self._clock() - started_at)

    def _next(self) -> list[Row]:
        """Wait for work; the rows of the next batch, none where all who waited have left or the engine is closing."""
        with self._news:
            if not self._waiting:
                self._books.idle()
                self._news.wait_for(lambda: self._waiting or self._closing)
                self._books.busy()
            self._sweep()
            rows = next_batch(self._waiting, self._tuning, self._clock(), self._loaded.max_positions)
            self._waiting = [row for row in self._waiting if row not in rows]
            self._books.waiting(len(self._waiting))
            return rows

    def _sweep(self) -> None:
        """End those who left while they waited. Runs after every step too: a batch may take minutes."""
        with self._news:
            gone = [row for row in self._waiting if row.stream.cancelled]
            if not gone:
                return
            self._waiting = [row for row in self._waiting if row not in gone]
            self._books.waiting(len(self._waiting))
        for row in gone:
            self._books.finish(row, "cancelled")

    def _serve(self, rows: list[Row]) -> None:
        """Run a batch to its end. One bad row does not fail the others: who had no text yet is tried again, alone."""
        try:
            run_batch(self._loaded, rows, self._books, self._sweep, self._abandoned)
        except Exception as error:  # a request must never end the thread
            self._recover([row for row in rows if row.live], len(rows) == 1, error)
        self._fail_left(rows)
        self._books.done()

    def _recover(self, live: list[Row], alone: bool, error: Exception) -> None:
        self._books.broken(live)
        ids = ", ".join(row.stream.request.request_id for row in live)
        logger.error("a batch broke with these requests running: %s", ids, exc_info=error)
        del error
        again = [] if alone else [row for row in live if not row.sent_text]
        self._fail_left([row for row in live if row not in again])
        for row in again:
            if self._abandoned.is_set():
                self._give_up([row])
            elif row.stream.cancelled:
                self._books.finish(row, "cancelled")
            else:
                self._serve([row])

    def _fail_left(self, rows: list[Row]) -> None:
        for row in rows:
            if row.live:
                self._fail(row)
