"""What every engine is to the rest of the graph: streams go in, chunks and exactly one ending come out, an account says what it took.

Free of torch, so that callers and tests import it in milliseconds. A `Stream` is the only thing that both sides of the thread border touch:
the asyncio loop reads it, the engine's thread fills it. It must not know how tokens are made. Tests: tests/engine/test_engine.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.errors import FrugalError
from serve_app.logprobs import TokenLogprob
from serve_app.messages import Chunk, Failed, Finish, Generate, ModelCard
from serve_app.settings import ModelTuning

Ending = Finish | Failed


class Stream:
    """One request's way through an engine. Create it on the asyncio loop that will read it; iterate it once.

    Text that waits when the reader comes is handed over as one chunk: tokens sent one by one through two handle hops took 40 % of two
    cores at 1,000 tokens/s.
    """

    def __init__(self, request: Generate, now: Callable[[], float] = time.monotonic) -> None:
        self.request = request
        self.arrived_at = now()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._lock = threading.Lock()
        self._waiting: list[Chunk] = []
        self._ending: Ending | None = None
        self._wake_pending = False
        self._exhausted = False
        self._cancelled = False
        self.priority = request.priority  # `batch` becomes `interactive` where a person joins the wait

    @property
    def cancelled(self) -> bool:
        """True once somebody has called `cancel`."""
        return self._cancelled

    @property
    def ended(self) -> bool:
        """True once the engine has put an ending, read or not."""
        return self._ending is not None

    def cancel(self) -> None:
        """Ask the engine to stop; from any thread, any number of times. The ending still comes through the stream."""
        self._cancelled = True

    def put_text(self, text: str, num_tokens: int, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """Engine side, any thread: more of the answer. Ignored after the ending."""
        with self._lock:
            if self._ending is not None:
                return
            self._waiting.append(Chunk(text, num_tokens, logprobs))
            wake = self._must_wake()
        self._wake(wake)

    def end(self, ending: Ending) -> bool:
        """Engine side, any thread: the answer's end. The first one wins; True if this was it."""
        with self._lock:
            if self._ending is not None:
                return False
            self._ending = ending
        self._call(self._tell_over)
        return True

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk | Ending:
        while True:
            item = self._take()
            if item is not None:
                return item
            await self._news.wait()

    async def gather(self, within_s: float) -> None:
        """Let text come together for that long; the ending is not kept waiting."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._over.wait()

    def _take(self) -> Chunk | Ending | None:
        """What is there for the reader: all waiting text as one chunk, else the ending, else nothing."""
        with self._lock:
            if self._exhausted:
                raise StopAsyncIteration
            self._wake_pending = False
            self._news.clear()
            if self._waiting:
                chunks, self._waiting = self._waiting, []
                return Chunk.joined(chunks)
            self._exhausted = self._ending is not None
            return self._ending

    def _must_wake(self) -> bool:
        """With the lock held: True for the first news since the reader last looked."""
        wake, self._wake_pending = not self._wake_pending, True
        return wake

    def _wake(self, wake: bool) -> None:
        if wake:
            self._call(self._news.set)

    def _tell_over(self) -> None:
        self._over.set()
        self._news.set()

    def _call(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(what)


@dataclass(slots=True)
class Account:
    """Where an engine's time went, in seconds of its own clock, and its rows summed over the steps.

    `used_s` is batch set-up and steps, `idle_s` waiting for work, `startup_s` from the actor's start to the first wait; the three make up
    all the time until the engine's end. `lost_s` is the part of `used_s` that went into rows which ended as cancelled or failed: `used_s`
    is the `compute_s` of the good endings, `lost_s`, what live rows have had so far, and what the end of each batch takes. `rows` were
    live, `wasted_rows` had ended and were computed all the same. `waiting` and `running` are requests at this moment.
    """

    used_s: float = 0.0
    lost_s: float = 0.0
    idle_s: float = 0.0
    startup_s: float = 0.0
    steps: int = 0
    rows: int = 0
    wasted_rows: int = 0
    waiting: int = 0
    running: int = 0


class Engine(Protocol):
    """Loaded weights behind one dedicated thread."""

    @property
    def card(self) -> ModelCard:
        """Who answers."""
        ...

    def admit(self, group: Sequence[Stream]) -> list[Stream | FrugalError]:
        """Take requests in; one result for each, in order. A refused one never harms its neighbours.

        Blocks while it tokenises: call it in a thread. Any number of threads may be in it at once.

        A refusal is ContextLengthExceeded, BadRequest, Overloaded (with `retry_after_s`) or Unavailable.
        """
        ...

    def tune(self, tuning: ModelTuning) -> None:
        """Take over new settings; from the next batch on."""
        ...

    def set_threads(self, num_threads: int) -> None:
        """Compute with so many CPU threads; from the next batch on."""
        ...

    def promote(self, request_id: str) -> None:
        """Serve a waiting request as an interactive one; nothing where it runs already, or is not here."""
        ...

    def account(self) -> Account:
        """A copy of the account up to now, the start, the wait or the step in progress included."""
        ...

    def alive(self) -> bool:
        """False once the engine's thread is gone."""
        ...

    def close(self, drain_s: float) -> None:
        """Stop. Waiting requests fail at once, running rows may finish within `drain_s`; then everything left fails. Blocks."""
        ...
