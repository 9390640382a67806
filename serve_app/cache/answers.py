"""Answers: a stored one, one in the making that several callers share, or a new one.

Thin: what a caller gets is decided in rules.py; here it is looked up, joined or begun, and told. The model is an injected callable, the
store a small protocol, the time a function; nothing here knows Ray or SQL. Tests: tests/fast/test_answers.py, test_answers_fresh.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

from serve_app.cache.books import Books
from serve_app.cache.flight import Flight
from serve_app.cache.flights import Flights
from serve_app.cache.key import answer_key
from serve_app.cache.looks import Looks, Store
from serve_app.cache.refusals import Refusals
from serve_app.cache.rules import (
    Decision,
    Held,
    Limits,
    check_ttl,
    decide,
    fresh_s,
    is_lasting,
    may_share,
    may_store,
    shortest,
    wants_stored,
)
from serve_app.cache.similar.rules import Found
from serve_app.cache.similar.shadow import Shadow, SimilarAnswers
from serve_app.errors import FrugalError, GenerationFailed, NotCached, Stopping
from serve_app.messages import Answer, Ask, CachePolicy, Chunk, Failed, Finish, Generate, Item, Opening, Outcome
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings
from serve_app.store.answers import StoredAnswer

log = logging.getLogger(__name__)

NOT_STORED = "only-if-cached: there is no stored answer that this request would take; send it without only-if-cached, and one is made"


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
        self._fingerprint = fingerprint
        self.settings = settings
        self._metrics = metrics
        self._now = now
        self.books = Books(metrics, now)
        self.similar = similar
        self._looks = Looks(store, metrics)
        self._refusals = Refusals(now)
        self.flights = Flights(generate, promote, self, self.books, metrics, now)
        self._shadow = Shadow(generate, self._put, self.books)
        self._learning: set[asyncio.Task[None]] = set()
        self._closed = False

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        """One Opening, chunks, and one ending.

        Raises:
            Overloaded: `max_in_flight` generations are running.
            NotCached: the request wants a stored answer only.
            BadRequest: it met a refusal that its like met a moment ago, or wants a longer time to live than there is.
        """
        started = time.monotonic()
        ending, finish = "cancelled", None
        try:
            flight, opening = await self._board(ask)
        except FrugalError:
            self.books.refused(ask)
            raise
        try:
            yield opening
            async for item in flight.follow():
                if isinstance(item, Finish):
                    ending, finish = item.reason, item
                elif isinstance(item, Failed):
                    ending = "error"
                yield item
        finally:
            self.books.caller(ask, opening.outcome, ending, finish, time.monotonic() - started, opening.age_s)
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

    def forget(self) -> None:
        """Stored answers were deleted: who comes from now on is served none that was read before."""
        self._looks.forget()
        self.flights.forget()
        self._refusals.clear()

    async def close(self) -> None:
        """End every flight, and take no more; those who wait get a Cancelled."""
        self._closed = True
        await asyncio.gather(self.flights.close(), self._looks.close(), self._shadow.close(), *self._learning, return_exceptions=True)

    async def _board(self, ask: Ask) -> tuple[Flight, Opening]:
        """Find the flight that this caller follows, and how it came about."""
        fingerprint = await self._fingerprint()
        key, limits = answer_key(ask, fingerprint), Limits.of(self.settings, ask.generate.model)
        check_ttl(ask.policy, limits)
        if (refusal := self._refusals.find(key, ask.policy, self.settings.negative_ttl_s)) is not None:
            self._metrics.inc("frugal_cache_refusals_replayed_total", model=ask.generate.model)
            raise refusal
        shared = may_share(ask.policy, repeatable=ask.generate.sampling.repeatable, settings=self.settings)
        while True:
            held = await self._held(key, wanted=wants_stored(ask.policy, shared=shared))
            if self._closed:
                raise Stopping
            live = self.flights.live(key)
            decision = decide(ask.policy, _held(held), limits, self._now(), live=live is not None, shared=shared)
            if decision.state == "refuse":
                raise NotCached(NOT_STORED, param="cache")
            if decision.state == "hit" and held is not None:  # the common case goes first: it is what a cache is for
                return self._replayed(key, held, decision, limits)
            asked = replace(ask, generate=replace(ask.generate, fingerprint=fingerprint))
            if decision.state == "stale" and held is not None:
                if decision.refresh:
                    self._refresh(key, asked, held)
                return self._replayed(key, held, decision, limits)
            joined = live is not None and decision.state == "join"
            flight = live if live is not None and joined else self._take_off(key, asked, held, decision, shared=shared)
            await self._wait(flight, ask, shared=shared)
            outcome: Outcome = "join" if joined else "bypass" if decision.state == "bypass" else "miss"
            if flight.stored is None:
                return flight, Opening(outcome, key, replay_s=self._replay_s(flight, limits))
            if self._takes(ask.policy, flight.stored, limits):
                age_s = max(0.0, self._now() - flight.stored.created_at)
                return flight, Opening("similar", flight.stored.key, age_s, similarity=flight.similarity)
            self._leave(flight)

    async def _held(self, key: str, *, wanted: bool) -> StoredAnswer | None:
        """What is stored. Who joins a flight whose first caller has looked needs no look of its own, and gets its first chunk at once."""
        if not wanted:
            return None
        flight = self.flights.live(key)
        if flight is not None and flight.looked:
            return flight.held
        held = await self._looks.get(key)
        if held is None and flight is not None and flight.ended and flight.keep:
            return await self._looks.get(key)  # stored while we looked
        return held

    def _replayed(self, key: str, held: StoredAnswer, decision: Decision, limits: Limits) -> tuple[Flight, Opening]:
        replay_s = max(0.0, min(self.settings.replay_s, fresh_s(_as_held(held), limits, self._now())))
        return Flight.of(held), Opening("stale" if decision.state == "stale" else "hit", key, decision.age_s, replay_s)

    def _take_off(self, key: str, ask: Ask, held: StoredAnswer | None, decision: Decision, *, shared: bool) -> Flight:
        generate, lead = ask.generate, decision.state == "lead"
        around = lead and wants_stored(ask.policy, shared=shared)
        flight = Flight(key, generate.request_id, interactive=generate.priority == "interactive")
        flight.looked, flight.held = around or not (shared or ask.policy.no_cache), held
        self.flights.start(flight, ask, self.settings, shared=shared, around=around)
        return flight

    async def _wait(self, flight: Flight, ask: Ask, *, shared: bool) -> None:
        """Follow a flight until it is known how its answer comes about."""
        flight.followers += 1
        if may_store(ask.policy, shared=shared):
            flight.keep, flight.ttl_s = True, shortest(flight.ttl_s, ask.policy.ttl_s)
        if ask.generate.priority == "interactive":
            self.flights.raise_priority(flight)
        try:
            await flight.opened()
        except BaseException:
            self._leave(flight)
            raise

    def _leave(self, flight: Flight) -> None:
        self.flights.leave(flight, finish_abandoned=self.settings.finish_abandoned)

    def _refresh(self, key: str, ask: Ask, held: StoredAnswer) -> None:
        """Make a new answer in the background, whoever leaves; while it is made, nobody starts another."""
        generate = replace(ask.generate, request_id=f"{ask.generate.request_id}.refresh", priority="batch")
        policy = CachePolicy(sampled_always=ask.policy.sampled_always)
        ttl_s = shortest(held.ttl_s, ask.policy.ttl_s)
        flight = Flight(key, generate.request_id, interactive=False, keep=True, ttl_s=ttl_s, background=True)
        flight.looked, flight.held = True, held
        try:
            self.flights.start(flight, replace(ask, generate=generate, policy=policy), self.settings, shared=True)
        except FrugalError:  # no room now; who asks next tries again
            self._metrics.inc("frugal_cache_refreshes_total", result="refused")

    def _replay_s(self, flight: Flight, limits: Limits) -> float:
        """How long those who ask us may replay what is being made: not if it is not stored, and never beyond its time to live."""
        return min(self.settings.replay_s, shortest(flight.ttl_s, limits.ttl_s) or 0.0) if flight.keep else 0.0

    def _takes(self, policy: CachePolicy, stored: StoredAnswer, limits: Limits) -> bool:
        """Whether this caller takes the stored answer to a question that means the same."""
        if not policy.similar or policy.no_cache:
            return False
        return decide(policy, _as_held(stored), limits, self._now(), live=False, shared=True).state == "hit"

    async def around(self, flight: Flight, ask: Ask) -> Found | None:
        """See flights.Keeper."""
        similar, limits = self.similar, Limits.of(self.settings, ask.generate.model)
        if similar is None or not ask.policy.similar:
            return None

        async def get(key: str) -> StoredAnswer | None:
            stored = await self._looks.get(key)
            return stored if stored is not None and self._takes(ask.policy, stored, limits) else None

        found = await similar.find(ask, ask.generate.fingerprint, get)
        if found is not None:
            self._shadow.consider(similar, flight.key, ask, found)
        return found

    async def keep(self, flight: Flight, ask: Ask, finish: Finish) -> None:
        """See flights.Keeper."""
        await self._put(flight.key, replace(ask, policy=replace(ask.policy, ttl_s=flight.ttl_s)), flight.so_far(), finish)
        if flight.background:
            self._metrics.inc("frugal_cache_refreshes_total", result="done")

    def failed(self, flight: Flight, ask: Ask, error: FrugalError) -> None:
        """See flights.Keeper."""
        if flight.background:
            self._metrics.inc("frugal_cache_refreshes_total", result="failed")
        # Not where an answer may be stored that its first caller would not take: the next one must find it.
        elif is_lasting(error) and flight.looked and flight.held is None and not ask.policy.no_store:
            self._refusals.keep(flight.key, error)

    async def _put(self, key: str, ask: Ask, said: Chunk, finish: Finish) -> None:
        generate, ttl_s = ask.generate, ask.policy.ttl_s
        answer = StoredAnswer(key, generate.model, ask.scope, ask.feed_id, said.text, finish, self._now(), said.logprobs, ttl_s)
        if await self._looks.put(answer) and self.similar is not None:
            work = self.similar.learn(ask, generate.fingerprint, key)
            task = asyncio.create_task(_swallow(work), context=contextvars.Context())
            self._learning.add(task)
            task.add_done_callback(self._learning.discard)


def _as_held(stored: StoredAnswer) -> Held:
    return Held(stored.created_at, stored.ttl_s)


def _held(stored: StoredAnswer | None) -> Held | None:
    return None if stored is None else _as_held(stored)


async def _swallow(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception:
        log.exception("a background call failed")
