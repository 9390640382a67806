"""Answers: a stored one, one in the making that several callers share, or a new one.

The model is an injected callable, the store a small protocol, the time a function; nothing here knows Ray or SQL. The store may fail: then
there is a miss, a metric and a log line, never an error (the cache fails open). Tests: tests/fast/test_answers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from serve_app.cache.books import Books
from serve_app.cache.flight import Flight
from serve_app.cache.key import answer_key
from serve_app.cache.similar.rules import Found
from serve_app.cache.similar.shadow import Shadow, SimilarAnswers
from serve_app.drain import Drain
from serve_app.errors import Cancelled, FrugalError, GenerationFailed, Overloaded, Stopping
from serve_app.messages import Answer, Ask, Chunk, Failed, Finish, Generate, Item, Opening, Outcome, Priority
from serve_app.metrics import Metrics
from serve_app.settings import CacheSettings
from serve_app.store.answers import StoredAnswer

log = logging.getLogger(__name__)


class Store(Protocol):
    """Where whole answers are kept."""

    async def get(self, key: str) -> StoredAnswer | None: ...

    async def put(self, answer: StoredAnswer) -> None: ...


class Answers:
    """Answers questions, each key at most once at a time.

    `generate` makes a stream of chunks with one ending; `fingerprint` names the loaded weights; `promote` tells the model that a person now
    waits for a low-priority request; `now` is Unix time.
    """

    def __init__(
        self,
        generate: Callable[[Generate], AsyncGenerator[Item, None]],
        fingerprint: Callable[[], Awaitable[str]],
        promote: Callable[[str], Awaitable[None]],
        store: Store,
        settings: CacheSettings,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
        similar: SimilarAnswers | None = None,
    ) -> None:
        self._generate = generate
        self._fingerprint = fingerprint
        self._promote = promote
        self._store = store
        self.settings = settings
        self._metrics = metrics
        self._now = now
        self.books = Books(metrics, now)
        self._live: dict[str, Flight] = {}
        self._flights: set[Flight] = set()
        self._drain = Drain(now)
        self._background: set[asyncio.Task[None]] = set()
        self._given_up = False
        self.similar = similar
        self._shadow = Shadow(generate, self._put, self.books)

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        """One Opening, chunks, and one ending.

        Raises:
            Overloaded: `max_in_flight` generations are running.
        """
        started = time.monotonic()
        ending, finish = "cancelled", None
        try:
            flight, outcome = await self._board(ask)
        except FrugalError:
            self.books.refused(ask)
            raise
        try:
            yield Opening(outcome, flight.shown_key, flight.age_s, self._replay_s(flight), flight.similarity)
            async for item in flight.follow():
                if isinstance(item, Finish):
                    ending, finish = item.reason, item
                elif isinstance(item, Failed):
                    ending = "error"
                yield item
        finally:
            self.books.caller(ask, outcome, ending, finish, time.monotonic() - started, flight.age_s)
            self._leave(flight)

    async def whole(self, ask: Ask) -> Answer:
        """The same as one value; an error is raised."""
        opening: Opening | None = None
        chunks: list[Chunk] = []
        async with contextlib.aclosing(self.stream(ask)) as items:
            async for item in items:
                match item:
                    case Opening():
                        opening = item
                    case Chunk():
                        chunks.append(item)
                    case Finish():
                        assert opening is not None
                        said = Chunk.joined(chunks)
                        return Answer(opening, said.text, item, said.logprobs)
                    case Failed():
                        raise item.error
        raise GenerationFailed("the answer broke off before its end; send the request again")

    async def close(self) -> None:
        """End every flight, and take no more; those who wait get a Cancelled."""
        self._given_up = True
        tasks = [flight.task for flight in self._flights if flight.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._background, self._shadow.close(), return_exceptions=True)

    def _replay_s(self, flight: Flight) -> float:
        """How long those who ask us may replay this answer: what is stored, or will be, and never beyond its time to live."""
        if (flight.age_s is None and not flight.keep) or flight.similarity is not None:
            return 0.0
        return max(0.0, min(self.settings.replay_s, self.settings.ttl_s - (flight.age_s or 0.0)))

    async def _board(self, ask: Ask) -> tuple[Flight, Outcome]:
        """Join the live flight of this key, or start one; an answer that is too old for this caller is not taken."""
        fingerprint = await self._fingerprint()
        key, policy = answer_key(ask, fingerprint), ask.policy
        ask = replace(ask, generate=replace(ask.generate, fingerprint=fingerprint))
        shared = ask.generate.sampling.repeatable or policy.sampled_always or self.settings.sampled == "always"
        look = shared and not policy.no_cache
        while True:
            flight = self._live.get(key) if look else None
            joined = flight is not None
            if flight is None:
                flight = self._take_off(key, ask, shared=shared, read=look and policy.max_age_s != 0)
            flight.followers += 1
            flight.keep = flight.keep or (shared and not policy.no_store)
            try:
                self._raise_priority(flight, ask)
                await flight.opened()
            except BaseException:
                self._leave(flight)
                raise
            too_old = flight.age_s is not None and policy.max_age_s is not None and flight.age_s > policy.max_age_s
            if not too_old and (flight.similarity is None or policy.similar):
                return flight, _outcome(flight, joined, look)
            self._leave(flight)
            if too_old:
                policy = replace(policy, max_age_s=0)  # the stored one is too old: only a live or a new answer will do

    def _take_off(self, key: str, ask: Ask, *, shared: bool, read: bool) -> Flight:
        if self._given_up:
            raise Stopping
        if len(self._flights) >= self.settings.max_in_flight:
            message = f"{len(self._flights)} answers are being made, the most this replica takes; try again later"
            raise Overloaded(message, retry_after_s=self._drain.retry_after_s())
        interactive = ask.generate.priority == "interactive"
        flight = Flight(key, ask.generate.request_id, interactive=interactive, keep=shared and not ask.policy.no_store)
        if shared and key not in self._live:
            self._live[key] = flight
        self._flights.add(flight)
        # A fresh context: Serve cancels what a request started when its caller leaves, and this flight may have other callers.
        flight.task = asyncio.create_task(self._fly(flight, ask, read=read), context=contextvars.Context())
        flight.task.add_done_callback(lambda _task: self._land(flight))
        self._metrics.set("frugal_cache_in_flight", len(self._flights))
        return flight

    async def _fly(self, flight: Flight, ask: Ask, *, read: bool) -> None:
        try:
            stored = await self._look(flight.key) if read else None
            found = await self._look_around(ask) if read and stored is None else None
            if stored is not None:
                self._replay(flight, stored)
            elif found is not None:
                self._replay(flight, found.answer, found.similarity)
                if self.similar is not None:
                    self._shadow.consider(self.similar, flight.key, ask, found)
            else:
                flight.open(None)
                await self._make(flight, ask)
        except asyncio.CancelledError:
            self._end(flight, Cancelled("the answer was given up before its end; send the request again"))
        except FrugalError as error:
            self._end(flight, error)
        except Exception:
            log.exception("request %s: the generation broke", ask.generate.request_id)
            message = f"the model broke while it answered request {ask.generate.request_id}; the log has the cause"
            self._end(flight, GenerationFailed(message))

    async def _make(self, flight: Flight, ask: Ask) -> None:
        priority: Priority = "interactive" if flight.interactive else "batch"
        async with contextlib.aclosing(self._generate(replace(ask.generate, priority=priority))) as items:
            async for item in items:
                if isinstance(item, Finish):
                    self.books.generation(ask, "miss" if flight.keep else "bypass", item)
                    if item.reason == "cancelled":
                        raise Cancelled("the model gave this answer up before its end; send the request again")
                    await self._keep(flight, ask, item)  # before the callers see the end: who asks again then finds it
                self._push(flight, item)
        if not flight.ended:
            raise GenerationFailed("the model's stream broke off before its end; send the request again")

    def _replay(self, flight: Flight, stored: StoredAnswer, similarity: float | None = None) -> None:
        flight.open(max(0.0, self._now() - stored.created_at), stored.key, similarity)
        flight.push(Chunk(stored.text, stored.finish.usage.completion_tokens, stored.logprobs))
        self._push(flight, stored.finish)

    def _push(self, flight: Flight, item: Item) -> None:
        flight.push(item)
        if flight.ended:
            self._unlist(flight)

    def _unlist(self, flight: Flight) -> None:
        """Nobody joins it from now on: it has ended (the next caller finds it stored), or nobody waits for it."""
        if self._live.get(flight.key) is flight:
            del self._live[flight.key]

    def _end(self, flight: Flight, error: FrugalError) -> None:
        if not flight.ended:
            self._push(flight, Failed(error))

    def _land(self, flight: Flight) -> None:
        self._flights.discard(flight)
        self._drain.ended()
        self._metrics.set("frugal_cache_in_flight", len(self._flights))

    def _leave(self, flight: Flight) -> None:
        flight.followers -= 1
        abandoned = flight.followers == 0 and not flight.ended and not (flight.keep and self.settings.finish_abandoned)
        if abandoned and flight.task is not None:
            self._unlist(flight)
            flight.task.cancel()

    def _raise_priority(self, flight: Flight, ask: Ask) -> None:
        if ask.generate.priority == "interactive" and not flight.interactive:
            flight.interactive = True
            self._spawn(self._promote(flight.request_id))

    async def _look(self, key: str) -> StoredAnswer | None:
        try:
            stored = await self._store.get(key)
        except Exception:
            log.exception("cannot read a stored answer; it counts as a miss")
            self._metrics.inc("frugal_cache_errors_total", operation="get")
            return None
        return stored if stored is not None and self._now() - stored.created_at <= self.settings.ttl_s else None

    async def _look_around(self, ask: Ask) -> Found | None:
        """The answer to a question that means the same."""
        if self.similar is None or not ask.policy.similar:
            return None
        return await self.similar.find(ask, ask.generate.fingerprint, self._look)

    async def _keep(self, flight: Flight, ask: Ask, finish: Finish) -> None:
        if flight.keep:
            await self._put(flight.key, ask, flight.so_far(), finish)

    async def _put(self, key: str, ask: Ask, said: Chunk, finish: Finish) -> None:
        generate = ask.generate
        answer = StoredAnswer(key, generate.model, ask.scope, ask.feed_id, said.text, finish, self._now(), said.logprobs)
        try:
            await self._store.put(answer)
        except Exception:
            log.exception("cannot store an answer; it is sent all the same")
            self._metrics.inc("frugal_cache_errors_total", operation="put")
            return
        if self.similar is not None:
            self._spawn(self.similar.learn(ask, generate.fingerprint, key))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.create_task(_swallow(work), context=contextvars.Context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _outcome(flight: Flight, joined: bool, look: bool) -> Outcome:
    if flight.similarity is not None:
        return "similar"
    if flight.age_s is not None:
        return "hit"
    if joined:
        return "join"
    return "miss" if look else "bypass"


async def _swallow(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:
        log.exception("a background call failed")
