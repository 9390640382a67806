"""The generations of one replica: how they start, who keeps them going, and how they end.

A flight outlives the caller who began it, as long as anybody waits for it. It is cancelled when nobody does, unless it is to be stored all
the same (`finish_abandoned`) or works in the background. Which question flies is decided in answers.py. Tests: tests/fast/test_answers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from serve_app import faults
from serve_app.cache.books import Books, Made
from serve_app.cache.flight import Flight
from serve_app.cache.similar.rules import Found
from serve_app.drain import Drain
from serve_app.errors import Cancelled, FrugalError, GenerationFailed, Overloaded, Stopping
from serve_app.messages import Ask, Failed, Finish, Generate, Item, Priority
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings

log = logging.getLogger(__name__)

GIVEN_UP = "the answer was given up before its end; send the request again"


class Keeper(Protocol):
    """What is done with a flight on its way; none of it raises."""

    async def around(self, flight: Flight, ask: Ask) -> Found | None:
        """Before a generation: the stored answer to a question that means the same."""
        ...

    async def keep(self, flight: Flight, ask: Ask, finish: Finish) -> None:
        """At a good ending, before those who wait see it: who asks again then finds it stored."""
        ...

    def failed(self, flight: Flight, ask: Ask, error: FrugalError) -> None:
        """At a bad one."""
        ...


class Flights:
    """At most `max_in_flight` at a time; the one of a key that others may join is `live`. All calls on one event loop."""

    def __init__(
        self,
        generate: Callable[[Generate], AsyncGenerator[Item, None]],
        promote: Callable[[str], Awaitable[None]],
        keeper: Keeper,
        books: Books,
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._generate = generate
        self._promote = promote
        self._keeper = keeper
        self._books = books
        self._metrics = metrics
        self._live: dict[str, Flight] = {}
        self._flying: set[Flight] = set()
        self._drain = Drain(now)
        self._background: set[asyncio.Task[None]] = set()
        self._given_up = False

    def live(self, key: str) -> Flight | None:
        """The one that whoever asks this may join."""
        return self._live.get(key)

    @property
    def num_flying(self) -> int:
        """Generations at this moment."""
        return len(self._flying)

    @property
    def num_followers(self) -> int:
        """Those who wait for them."""
        return sum(flight.followers for flight in self._flying)

    def start(self, flight: Flight, ask: Ask, settings: CacheSettings, *, shared: bool, around: bool = False) -> None:
        """Let it fly, where it is `shared` as the one to join, unless there is one; `around`: it may end with another question's answer.

        Raises:
            Overloaded: `max_in_flight` generations are running.
            Stopping: after `close`.
        """
        if self._given_up:
            raise Stopping
        if len(self._flying) >= settings.max_in_flight:
            message = f"{len(self._flying)} answers are being made, the most this replica takes; try again later"
            raise Overloaded(message, retry_after_s=self._drain.retry_after_s())
        if shared:
            self._live.setdefault(flight.key, flight)
        self._flying.add(flight)
        # A fresh context: Serve cancels what a request started when its caller leaves, and this flight may have other callers.
        flight.task = asyncio.create_task(self._fly(flight, ask, around=around), context=contextvars.Context())
        flight.task.add_done_callback(lambda _task: self._land(flight, ask))
        self._metrics.set("frugal_cache_in_flight", len(self._flying))

    def leave(self, flight: Flight, *, finish_abandoned: bool) -> None:
        """One of those who wait does so no more; the last one takes the generation along."""
        flight.followers -= 1
        wanted = flight.background or (flight.keep and finish_abandoned)
        if flight.followers == 0 and not flight.ended and not wanted and flight.task is not None:
            self._unlist(flight)
            flight.task.cancel()

    def raise_priority(self, flight: Flight) -> None:
        """A person waits for it now."""
        if not flight.interactive:
            flight.interactive = True
            if not flight.ended:
                self._spawn(self._promote(flight.request_id))

    def forget(self) -> None:
        """Stored answers were deleted: let nobody be served one that a flight still holds."""
        for flight in self._live.values():
            flight.looked, flight.held = False, None

    async def close(self) -> None:
        """End them all, and start no more; those who wait get a Cancelled."""
        self._given_up = True
        tasks = [flight.task for flight in self._flying if flight.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._background, return_exceptions=True)

    async def _fly(self, flight: Flight, ask: Ask, *, around: bool) -> None:
        try:
            found = await self._keeper.around(flight, ask) if around else None
            if found is not None:
                flight.open(found.answer, found.similarity)
                self._unlist(flight)
            else:
                flight.open(None)
                await self._make(flight, ask)
        except asyncio.CancelledError:
            self._fail(flight, ask, Cancelled(GIVEN_UP))
        except FrugalError as error:
            self._fail(flight, ask, error)
        except Exception:
            log.exception("request %s: the generation broke", ask.generate.request_id)
            message = f"the model broke while it answered request {ask.generate.request_id}; the log has the cause"
            self._fail(flight, ask, GenerationFailed(message))

    async def _make(self, flight: Flight, ask: Ask) -> None:
        priority: Priority = "interactive" if flight.interactive else "batch"
        async with contextlib.aclosing(self._generate(replace(ask.generate, priority=priority))) as items:
            async for item in items:
                if isinstance(item, Finish):
                    faults.at("answer made")
                    made: Made = "refresh" if flight.background else "miss" if flight.keep else "bypass"
                    self._books.generation(ask, made, item)
                    if item.reason == "cancelled":
                        raise Cancelled("the model gave this answer up before its end; send the request again")
                    if flight.keep:
                        await self._keeper.keep(flight, ask, item)
                        faults.at("answer kept")
                if isinstance(item, Failed):
                    raise item.error
                flight.push(item)
                if flight.ended:
                    self._unlist(flight)
                else:
                    faults.at("answer begun")
        if not flight.ended:
            raise GenerationFailed("the model's stream broke off before its end; send the request again")

    def _fail(self, flight: Flight, ask: Ask, error: FrugalError) -> None:
        if not flight.ended:
            self._keeper.failed(flight, ask, error)
            flight.push(Failed(error))
        self._unlist(flight)

    def _unlist(self, flight: Flight) -> None:
        """Nobody joins it from now on: it has ended (the next caller finds it stored), or nobody waits for it."""
        if self._live.get(flight.key) is flight:
            del self._live[flight.key]

    def _land(self, flight: Flight, ask: Ask) -> None:
        if not flight.ended:  # cancelled before its first step
            self._fail(flight, ask, Cancelled(GIVEN_UP))
        self._flying.discard(flight)
        self._drain.ended()
        self._metrics.set("frugal_cache_in_flight", len(self._flying))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.create_task(_swallow(work), context=contextvars.Context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _swallow(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:
        log.exception("a background call failed")
