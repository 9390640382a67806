"""What the engines share: a waiting line behind a lock, one thread, the books, and how requests come in and are turned away.

A subclass says what the thread does (`_work`) and where its line is (`_enqueue`, `_num_waiting`). Tests: tests/engine/test_engine.py and
tests/engine/test_inflight.py.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from serve_app.errors import Cancelled, FrugalError, GenerationFailed, Overloaded, Unavailable
from serve_app.messages import ModelCard
from serve_app.metrics import Metrics
from serve_app.model.books import Books
from serve_app.model.capabilities import ENGINES, refusal
from serve_app.model.engine import Account, Stream
from serve_app.model.loader import LoadedModel
from serve_app.model.prompts import encode
from serve_app.model.rows import Row
from serve_app.model.spelling import Spelling
from serve_app.model.waiting import DrainRate
from serve_app.settings import ModelTuning

STUCK_S = 5.0  # how long `close` waits for the step in progress once the drain time is over
STOPPING = "the replica is stopping; send the request again"


class ThreadedEngine:
    """The parts of an `Engine` (see engine.py) that do not depend on how it batches.

    Its thread sets torch's number of threads before it computes: OpenMP keeps the number per thread, and bitsandbytes' kernels ask OpenMP,
    not torch. Under Ray it starts as 1, because the actor asks for one CPU.
    """

    name = "engine"
    kind = ""  # as `model.engine` names it

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
        self._tokenizing = threading.Lock()  # before it encodes, transformers sets truncation and padding on the tokenizer itself
        self._closing = False
        self._abandoned = threading.Event()
        self._threads = loaded.threads
        self._books = Books(loaded.card, tuning.price_per_replica_hour_usd, metrics, clock, started_at)
        # guarded by _news
        self._drain_rate = DrainRate(64 * loaded.card.alone_decode_step_s + 256 / loaded.card.alone_prefill_tokens_per_s)
        self._used_at_ending = 0.0  # the engine's time at the last ending
        self._decode = functools.partial(loaded.tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self._spelling: Spelling | None = None  # made for the first who asks for log-probabilities
        self._thread = threading.Thread(target=self._loop, name=self.name, daemon=True)
        self._thread.start()

    @property
    def card(self) -> ModelCard:
        """See Engine.card."""
        return replace(self._loaded.card, sampling_fields=tuple(sorted(self.capabilities)))

    @property
    def capabilities(self) -> frozenset[str]:
        """The request fields beyond `max_tokens` that this engine honours; a request that uses another one is refused."""
        return ENGINES[self.kind]

    def admit(self, group: Sequence[Stream]) -> list[Stream | FrugalError]:
        """See Engine.admit. The whole group is tokenised before its first request can start, so that it shares a prefill."""
        with self._tokenizing:
            rows = [self._row(stream) for stream in group]
        with self._news:
            results = [row if isinstance(row, FrugalError) else self._accept(row) for row in rows]
            self._books.waiting(self._num_waiting)
            self._news.notify()
        return results

    def tune(self, tuning: ModelTuning) -> None:
        """See Engine.tune."""
        self._tuning = tuning
        self._books.price_per_hour_usd = tuning.price_per_replica_hour_usd

    def set_threads(self, num_threads: int) -> None:
        """See Engine.set_threads."""
        self._threads = num_threads

    def account(self) -> Account:
        """See Engine.account."""
        return self._books.account_now()

    def alive(self) -> bool:
        """See Engine.alive."""
        return self._thread.is_alive()

    @property
    def _num_waiting(self) -> int:
        """With the lock held: how many wait."""
        raise NotImplementedError

    def _enqueue(self, row: Row) -> None:
        """With the lock held: into the line, where there is room."""
        raise NotImplementedError

    def _work(self) -> None:
        """In the engine's thread, until it closes."""
        raise NotImplementedError

    def _over(self) -> None:
        """The thread ends, whatever the reason."""

    def _loop(self) -> None:
        self._books.ready()
        try:
            self._work()
        finally:
            self._books.over()
            self._over()

    def _join(self, drain_s: float) -> None:
        self._thread.join(drain_s)
        self._abandoned.set()
        self._thread.join(STUCK_S)

    def _row(self, stream: Stream) -> Row | FrugalError:
        if refused := refusal(stream.request.sampling, self.kind, self.capabilities):
            return refused
        try:
            ids = encode(self._loaded.tokenizer, stream.request, self._loaded.card.max_context)
        except FrugalError as error:
            return error
        if stream.request.sampling.logprobs is not None and self._spelling is None:
            self._spelling = Spelling(self._loaded.tokenizer)
        return Row(stream, ids, self._loaded.eos_ids, self._decode, self._spelling)

    def _accept(self, row: Row) -> Stream | FrugalError:
        """With the lock held: into the line, or why not."""
        if self._closing or not self.alive():
            return Unavailable(STOPPING, retry_after_s=1)
        num_waiting = self._num_waiting
        if num_waiting >= self._tuning.max_waiting:
            after_s = self._drain_rate.retry_after_s(num_waiting)
            return Overloaded(f"{num_waiting} requests are waiting already; try again in {after_s:.0f} s", retry_after_s=after_s)
        self._enqueue(row)
        return row.stream

    def _fail(self, row: Row) -> None:
        """The model broke on it; the log has been told."""
        request_id = row.stream.request.request_id
        self._books.fail(row, GenerationFailed(f"the model failed on this request; the server's log tells why, under {request_id}"))

    def _note_endings(self, num: int) -> None:
        """With the lock held: for the time that a refused caller is told: requests per second of engine time."""
        if num:
            used_s = self._books.account_now().used_s  # not the clock: it goes on while nobody is there
            self._drain_rate.add(num, used_s - self._used_at_ending)
            self._used_at_ending = used_s

    def _give_up(self, rows: list[Row]) -> None:
        for row in rows:
            self._books.fail(row, Cancelled(STOPPING, retry_after_s=1))
