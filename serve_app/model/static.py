"""Static batches through `generate`: the plain engine, and the baseline that the study and the benchmark compare with.

    admit (any thread) -> waiting line -> the engine's thread: next batch -> left-padded generate -> endings

A batch runs to its last row's end; rows that ended are computed on and counted as wasted. What a step does to the rows is in batch.py,
what a request must be in prompts.py, who is next in waiting.py. Tests: tests/fast/test_engine.py and tests/model/test_static.py.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence

import torch

from serve_app.errors import Cancelled, FrugalError, GenerationFailed, Overloaded, Unavailable
from serve_app.messages import ModelCard
from serve_app.metrics import Metrics
from serve_app.model.batch import STOPPING, run_batch
from serve_app.model.books import Books
from serve_app.model.engine import Account, Stream
from serve_app.model.loader import LoadedModel
from serve_app.model.prompts import encode
from serve_app.model.rows import Row
from serve_app.model.waiting import DrainRate, next_batch
from serve_app.settings import ModelTuning

logger = logging.getLogger(__name__)

STUCK_S = 5.0  # how long `close` waits for the step in progress once the drain time is over


class StaticEngine:
    """An `Engine` (see engine.py) over one loaded model, with one thread."""

    def __init__(
        self,
        loaded: LoadedModel,
        tuning: ModelTuning,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        started_at: float | None = None,
    ) -> None:
        """`started_at`: the clock at the actor's start, from which `startup_s` counts; by default now."""
        self._loaded = loaded
        self._tuning = tuning
        self._clock = clock
        self._news = threading.Condition()
        self._waiting: list[Row] = []  # guarded by _news, like _drain_rate
        self._tokenizing = threading.Lock()  # before it encodes, transformers sets truncation and padding on the tokenizer itself
        self._closing = False
        self._abandoned = threading.Event()
        self._in_hand: list[Row] = []
        self._threads = loaded.threads
        self._books = Books(loaded.card, tuning.price_per_replica_hour_usd, metrics, clock, started_at)
        self._drain_rate = DrainRate(64 * loaded.card.alone_decode_step_s + 256 / loaded.card.alone_prefill_tokens_per_s)
        self._decode = functools.partial(loaded.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self._thread = threading.Thread(target=self._loop, name="static-engine", daemon=True)
        self._thread.start()

    @property
    def card(self) -> ModelCard:
        """See Engine.card."""
        return self._loaded.card

    def admit(self, group: Sequence[Stream]) -> list[Stream | FrugalError]:
        """See Engine.admit. The whole group is tokenised before its first request can start, so that it shares one batch."""
        with self._tokenizing:
            rows = [self._row(stream) for stream in group]
        with self._news:
            results = [row if isinstance(row, FrugalError) else self._enqueue(row) for row in rows]
            self._books.waiting(len(self._waiting))
            self._news.notify()
        return results

    def tune(self, tuning: ModelTuning) -> None:
        """See Engine.tune."""
        self._tuning = tuning
        self._books.price_per_hour_usd = tuning.price_per_replica_hour_usd

    def set_threads(self, num_threads: int) -> None:
        """See Engine.set_threads."""
        self._threads = num_threads

    def promote(self, request_id: str) -> None:
        """See Engine.promote."""
        with self._news:
            for row in self._waiting:
                if row.stream.request.request_id == request_id:
                    row.stream.priority = "interactive"

    def account(self) -> Account:
        """See Engine.account."""
        return self._books.account_now()

    def alive(self) -> bool:
        """See Engine.alive."""
        return self._thread.is_alive()

    def close(self, drain_s: float) -> None:
        """See Engine.close."""
        with self._news:
            self._closing = True
            left, self._waiting = self._waiting, []
            self._books.waiting(0)
            self._news.notify()
        self._give_up(left)
        self._thread.join(drain_s)
        self._abandoned.set()
        self._thread.join(STUCK_S)
        self._give_up(self._in_hand)  # a thread that hangs inside a step must not hang its callers too

    def _row(self, stream: Stream) -> Row | FrugalError:
        try:
            ids = encode(self._loaded.tokenizer, stream.request, self.card.max_context)
        except FrugalError as error:
            return error
        return Row(stream, ids, self._loaded.eos_ids, self._decode)

    def _enqueue(self, row: Row) -> Stream | FrugalError:
        """With the lock held."""
        if self._closing or not self._thread.is_alive():
            return Unavailable(STOPPING, retry_after_s=1)
        num_waiting = len(self._waiting)
        if num_waiting >= self._tuning.max_waiting:
            after_s = self._drain_rate.retry_after_s(num_waiting)
            return Overloaded(f"{num_waiting} requests are waiting already; try again in {after_s:.0f} s", retry_after_s=after_s)
        self._waiting.append(row)
        return row.stream

    def _loop(self) -> None:
        self._books.ready()
        try:
            while not self._closing:
                self._in_hand = self._next()
                if self._in_hand:
                    self._run(self._in_hand)
        finally:
            self._books.over()

    def _run(self, rows: list[Row]) -> None:
        # In this thread: OpenMP keeps the number per thread, and bitsandbytes' kernels ask OpenMP, not torch. Under Ray it starts as 1,
        # because the actor asks for one CPU.
        torch.set_num_threads(self._threads)
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
                request_id = row.stream.request.request_id
                self._books.fail(row, GenerationFailed(f"the model failed on this request; the server's log tells why, under {request_id}"))

    def _give_up(self, rows: list[Row]) -> None:
        for row in rows:
            self._books.fail(row, Cancelled(STOPPING, retry_after_s=1))
