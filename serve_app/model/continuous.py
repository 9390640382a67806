"""An engine over transformers' continuous batching: the library schedules and computes, we keep the line, the streams and the books.

    admit (any thread) -> waiting line -> the engine's thread  -- add, cancel -->  the library's thread: step after step
                                                 ^---------- steps, tokens -------------'

The line is ours, because the library's knows no priorities: it gets as many requests as may run together. It tells each step before it
computes it, and the tokens after it. So the time from the tokens before to a step's own is that step's, shared by the positions computed
for each row, as in the slots engine; a step without tokens (a part of a prompt) lasts until the next one is told. A row that ends by a stop
string or by its caller's leaving may be in the step that runs already: that one is computed for nothing and counted as wasted.
What depends on the library's insides is in paged.py. Tests: tests/engine/test_continuous.py and tests/engine/test_engine_contract.py.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from serve_app.errors import Unavailable
from serve_app.messages import FinishReason
from serve_app.metrics import Metrics
from serve_app.model.linears import quick
from serve_app.model.loader import LoadedModel
from serve_app.model.paged import PagedBatching
from serve_app.model.paged_sampling import PagedStep, Ticket
from serve_app.model.rows import Row
from serve_app.model.threaded import ThreadedEngine
from serve_app.model.waiting import rank
from serve_app.settings import ModelTuning

logger = logging.getLogger(__name__)

POLL_S = 0.1  # between two looks at who has left, and at whether the library lives, where no token comes
BROKEN = "the engine has broken and this replica is being replaced; send the request again"


class LibraryEnded(Exception):
    """The library's thread is gone, and with it whatever it computed."""


class TransformersEngine(ThreadedEngine):
    """An `Engine` (see engine.py) over one loaded model, the library's thread and one of its own."""

    name = "transformers-engine"
    kind = "transformers"

    def __init__(
        self,
        loaded: LoadedModel,
        tuning: ModelTuning,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        started_at: float | None = None,
        *,
        batching: PagedBatching,
    ) -> None:
        """`started_at`: the clock at the actor's start, from which `startup_s` counts; by default now."""
        self._batching = batching
        self._waiting: list[Row] = []  # guarded by _news
        self._running: dict[int, Ticket] = {}  # the engine's thread's own, but for `close`
        self._leaving: set[int] = set()  # who has left before the library began with it
        self._numbers = itertools.count()
        self._step: PagedStep | None = None  # that is being computed
        self._now = 0.0  # of the last step's end
        super().__init__(loaded, tuning, metrics, clock, started_at)

    def promote(self, request_id: str) -> None:
        """See Engine.promote."""
        with self._news:
            for row in self._waiting:
                if row.stream.request.request_id == request_id:
                    row.stream.priority = "interactive"

    def alive(self) -> bool:
        """See Engine.alive. False as soon as the library's thread is gone, too."""
        return super().alive() and self._batching.alive

    def close(self, drain_s: float) -> None:
        """See Engine.close."""
        with self._news:
            self._closing = True
            left, self._waiting = self._waiting, []
            self._books.waiting(0)
            self._news.notify()
        self._batching.poke()
        self._give_up(left)
        self._join(drain_s)
        self._give_up([ticket.row for ticket in list(self._running.values())])  # a step that hangs must not hang its callers too

    @property
    def _num_waiting(self) -> int:
        return len(self._waiting)

    def _enqueue(self, row: Row) -> None:
        self._waiting.append(row)
        self._batching.poke()

    def _work(self) -> None:
        try:
            with quick(self._loaded.model, keep=False), self._batching.running():
                self._serve()
                self._books.idle()  # until the library has stopped: that is nobody's work
            self._books.busy()
        except LibraryEnded:
            logger.error("transformers' continuous batching has ended; its own log tells why")
            self._break()

    def _serve(self) -> None:
        look = True  # at the line and at who has left: once a step, and where a row has made room; not at every token
        while not (self._closing and not self._running) and not self._abandoned.is_set():
            if look:
                self._batching.sampling.num_threads = self._threads
                self._sweep()
                self._hand_over()
            if self._running or self._leaving:
                look = self._take_in(self._batching.next(POLL_S))
            else:
                look = True
                self._wait()

    def _break(self) -> None:
        """The library's end is that of all requests: an error for those that had begun, another try elsewhere for the others."""
        with self._news:
            self._closing = True
            left, self._waiting = self._waiting, []
        for row in [*left, *(ticket.row for ticket in self._running.values())]:
            if row.started_at is None:
                self._books.fail(row, Unavailable(BROKEN, retry_after_s=5))
            else:
                self._fail(row)

    def _over(self) -> None:
        with self._news:
            self._closing = True
            left, self._waiting = self._waiting, []
        self._give_up([*left, *(ticket.row for ticket in self._running.values())])
        self._running = {}
        self._books.waiting(0)
        self._books.running(0)

    def _wait(self) -> None:
        with self._news:
            if self._waiting or self._closing:
                return
            self._step = None  # where it was computed for nobody, its time is used and nobody's
            self._books.idle()
            self._news.wait_for(lambda: self._waiting or self._closing)
            self._books.busy()

    def _sweep(self) -> None:
        """End those who have left, running or not."""
        for number, ticket in list(self._running.items()):
            if ticket.row.stream.cancelled:
                self._cancel(ticket)
                self._end(number, "cancelled")
        with self._news:
            gone = [row for row in self._waiting if row.stream.cancelled]
            self._waiting = [row for row in self._waiting if row not in gone]
            self._books.waiting(self._num_waiting)
        for row in gone:
            self._books.finish(row, "cancelled")

    def _hand_over(self) -> None:
        """As many of the line as may run, the first in rank first."""
        with self._news:
            now, room = self._clock(), self._tuning.max_batch_size - len(self._running)
            chosen = sorted(self._waiting, key=lambda row: rank(row, self._tuning, now))[: max(0, room)]
            self._waiting = [row for row in self._waiting if row not in chosen]
            self._books.waiting(self._num_waiting)
        for row in chosen:
            seed = row.stream.request.sampling.seed
            ticket = Ticket(next(self._numbers), row, secrets.randbits(64) if seed is None else seed)
            self._running[ticket.number] = ticket
            self._batching.add(ticket)
        if chosen:
            self._books.running(len(self._running))

    def _cancel(self, ticket: Ticket) -> None:
        """Now, or as soon as its first step is told; see PagedBatching.cancel."""
        if ticket.row.started_at is None:
            self._leaving.add(ticket.number)
        else:
            self._batching.cancel(ticket.number)

    def _take_in(self, item: PagedStep | Any | None) -> bool:
        """One item of the library's queue, see PagedBatching.next; False where it changed nothing in who runs and told no step."""
        if item is None:
            if not self._batching.alive:
                raise LibraryEnded
            return True
        self._settle()
        if isinstance(item, PagedStep):
            self._begin(item)
            return True
        num_running = len(self._running)
        self._take(item)
        return len(self._running) != num_running

    def _begin(self, step: PagedStep) -> None:
        self._step = step
        for ticket, _ in step.work:
            if ticket.number in self._leaving:
                self._leaving.remove(ticket.number)
                self._batching.cancel(ticket.number)
            elif ticket.row.started_at is None:
                self._books.join(ticket.row, len(step.work))

    def _settle(self) -> None:
        """The step in progress is over. Its time is that of the rows which still live; the others were computed for nothing."""
        if self._step is not None:
            step, self._step = self._step, None
            live = [(ticket.row, count) for ticket, count in step.work if ticket.row.live]
            num_wasted = len(step.work) - len(live)
            self._now = self._books.packed_step(live, step.num_prompt, step.num_tokens, num_wasted)

    def _take(self, output: Any) -> None:
        """The tokens of a request so far, and whether the library is through with it."""
        number = int(output.request_id)
        ticket = self._running.get(number)
        if ticket is None:  # it was cancelled during this step
            return
        row = ticket.row
        for token in output.generated_tokens[row.num_generated :]:
            if row.first_token_at is None:
                row.num_cached = max(0, len(row.prompt_ids) - ticket.num_prefilled)
                self._books.first_token(row, self._now)
            reason = row.take(token, self._now) if row.live else "cancelled"
            if reason is not None:
                if not output.is_finished():
                    self._cancel(ticket)
                self._end(number, reason)
                return
        if output.is_finished():
            logger.error("request %s: transformers gave it up: %s", row.stream.request.request_id, output.error)
            del self._running[number]
            self._books.running(len(self._running))
            self._fail(row)

    def _end(self, number: int, reason: FinishReason) -> None:
        ticket = self._running.pop(number)
        self._books.running(len(self._running))
        self._books.finish(ticket.row, reason)
        with self._news:
            self._note_endings(1)
