"""The similarity lookup of one AnswerCache replica: thin, over the embedding, the index, the gate and the store.

Embedding and index belong to one thread, which a caller waits for at most `timeout_s`; whatever fails here is "nothing found", because a
generation is always right. Questions come into the index when their answers are stored, here or in another replica (`sync`).
Tests: tests/fast/test_similar_lookup.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
from cachetools import LRUCache

from serve_app.cache.similar import backoff
from serve_app.cache.similar.compare import same_answer
from serve_app.cache.similar.embedding import Embedding, SentenceEmbedding, Vectors
from serve_app.cache.similar.gate import conflict, reading
from serve_app.cache.similar.index import Index, Known
from serve_app.cache.similar.rules import Found, eligible, group_key, question_of, trial_id
from serve_app.messages import Ask
from serve_app.metrics import Metrics
from serve_app.settings_similar import SimilarSettings, embedding_folder
from serve_app.store.answers import StoredAnswer
from serve_app.store.similar import StoredQuestion, Trial

log = logging.getLogger(__name__)
T = TypeVar("T")

FORGET_AFTER_S = 600.0  # longer than most outages of a store
SYNC_S = 1.0
TRIM_EVERY = 60  # rounds
MAX_CANDIDATES = 8  # that the gate looks at
MAX_WAITING = 32  # in the line of the thread: about a third of a second
SEEN_IDS = 4096  # of rows; more than one look into the table overlaps the next


class Rows(Protocol):
    """See store/similar.py; the calls block."""

    def add(self, question: StoredQuestion) -> None: ...

    def remove(self, key: str) -> None: ...

    def newer(self, after: int, embedding: str, seen: set[int], limit: int) -> list[StoredQuestion]: ...

    def trim(self, max_entries: int, *, without_answers: bool) -> None: ...

    def trial(self, trial_id: str) -> Trial | None: ...

    def record(self, trial_id: str, first: Trial, change: Callable[[Trial], Trial]) -> Trial: ...


class Similar:
    """Off until `tune` says otherwise.

    `with_answers`: the answers are in the same database as the questions. `load` makes the embedding from its source, `chance` draws from
    [0, 1), `now` is Unix time.
    """

    def __init__(
        self,
        rows: Rows,
        model: str,
        metrics: Metrics,
        *,
        with_answers: bool = False,
        load: Callable[[str], Embedding] = lambda source: SentenceEmbedding(embedding_folder(source)),
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rows = rows
        self._model = model
        self._metrics = metrics
        self._with_answers = with_answers
        self._load = load
        self._chance = chance
        self._now = now
        self._settings = SimilarSettings()
        self._threshold = self._settings.threshold
        self._embedding: Embedding | None = None
        self._loaded: tuple[str, int] | None = None  # what the index was made for: source and max_entries
        self._index = Index(1, 1)
        self._vectors: LRUCache[str, Vectors] = LRUCache(256)  # of questions that were looked up, until their answers are stored
        self._missing: LRUCache[str, float] = LRUCache(1024)  # key -> when its answer was first not found
        self._thread = ThreadPoolExecutor(1, "similar")
        self._follower: asyncio.Task[None] | None = None
        self._waiting = 0
        self._last_id = 0
        self._seen: dict[int, None] = {}

    def start(self) -> None:
        """Begin to follow the settings and the other replicas."""
        self._follower = asyncio.create_task(self._follow_all())

    def tune(self, settings: SimilarSettings) -> None:
        """Take new settings over; `sync` does what they need."""
        if trial_id(self._model, settings) != trial_id(self._model, self._settings):
            self._threshold = 2.0  # nothing is served before the trial of these settings has been read
        self._settings = settings

    @property
    def ready(self) -> bool:
        """Something may be found now."""
        return self._settings.enabled and self._embedding is not None and self._threshold <= 1.0

    @property
    def num_waiting(self) -> int:
        """Pieces of work in the line of the thread."""
        return self._waiting

    def wants_sample(self) -> bool:
        """Whether this similar hit shall also be generated, and compared by `judge`."""
        return self._chance() < self._settings.shadow_share

    async def find(self, ask: Ask, fingerprint: str, get: Callable[[str], Awaitable[StoredAnswer | None]]) -> Found | None:
        """The stored answer to a question that means the same, if there is one. `get` looks into the store; it never raises."""
        if not self.ready or not eligible(ask, self._settings):
            return None
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                found = await self._find(ask, group_key(ask, fingerprint), get)
            result = "none" if found is None else "hit"
        except TimeoutError:
            found, result = None, "late"
        except _Busy:
            found, result = None, "busy"
        except Exception:
            log.exception("the similarity lookup failed; it counts as nothing found")
            found, result = None, "error"
        self._metrics.inc("frugal_similar_lookups_total", result=result)
        self._metrics.observe("frugal_similar_lookup_seconds", time.monotonic() - began)
        return found

    async def learn(self, ask: Ask, fingerprint: str, key: str) -> None:
        """The answer to this question has been stored under `key`: from now on it may stand for others."""
        if not self.ready or not eligible(ask, self._settings):
            return
        question = question_of(ask)
        known = Known(key, group_key(ask, fingerprint), question)
        try:
            embedding, vector = await self._in_thread(lambda: self._learn(known))
            row = StoredQuestion(key, known.group, embedding, question, vector.astype("<f2").tobytes())
            await asyncio.to_thread(self._rows.add, row)
        except _Busy:
            pass  # it will be asked again, or it was not worth it
        except Exception:
            log.exception("cannot remember a question for the similarity lookup")

    async def judge(self, found: Found, answer: str) -> bool:
        """Compare the answer that stood for another with `answer`, which was generated; count it, and raise the threshold if need be."""
        stored, settings = found.answer.text, self._settings
        cosine = await self._run(lambda: float(np.dot(*self._embed([stored, answer]))))
        right = same_answer(stored, answer, cosine, settings.same_answer)
        limit, step, now = settings.max_false_hit_rate, settings.backoff_step, self._now()
        before = self._threshold
        trial = await asyncio.to_thread(
            self._rows.record,
            trial_id(self._model, settings),
            Trial(self._model, settings.threshold, settings.threshold),
            lambda trial: backoff.judged(trial, right=right, limit=limit, step=step, now=now),
        )
        self._metrics.inc("frugal_similar_samples_total", verdict="right" if right else "wrong")
        self._follow(trial)
        if trial.threshold > before:
            seen = f"{trial.all_wrong} of {trial.all_judged} compared answers were wrong"
            state = "it is off" if trial.off else f"the threshold is {trial.threshold:g} now"
            log.warning("similarity lookup: %s, more than max_false_hit_rate %g allows; %s", seen, limit, state)
        return right

    async def sync(self) -> None:
        """Load what the settings ask for, read what other replicas have learned, and the threshold that holds for all."""
        settings = self._settings
        if not settings.enabled:
            return
        if self._loaded != (settings.embedding, settings.max_entries):
            await self._begin(settings)
        assert self._embedding is not None
        trial = await asyncio.to_thread(self._rows.trial, trial_id(self._model, settings))
        if settings is self._settings:
            self._follow(trial or Trial(self._model, settings.threshold, settings.threshold))
        limit = settings.max_entries
        newer = await asyncio.to_thread(self._rows.newer, self._last_id, self._embedding.name, set(self._seen), limit)
        if newer:
            await self._run(lambda: self._take(newer))
            self._last_id = max(self._last_id, *(row.id for row in newer))
            self._seen.update(dict.fromkeys(row.id for row in newer))
            for old in sorted(self._seen)[:-SEEN_IDS]:
                del self._seen[old]
        self._metrics.set("frugal_similar_entries", len(self._index))

    async def trim(self) -> None:
        """Let the table forget what no index would hold."""
        if self._settings.enabled:
            entries, with_answers = self._settings.max_entries, self._with_answers
            await asyncio.to_thread(lambda: self._rows.trim(entries, without_answers=with_answers))

    async def close(self) -> None:
        """End the thread, and follow nobody any more."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _follow_all(self) -> None:
        rounds = 0
        while True:
            try:
                await self.sync()
                if rounds % TRIM_EVERY == 0:
                    await self.trim()
            except Exception:
                log.exception("similarity lookup: cannot load the model or read what others have learned; trying again")
                self._metrics.inc("frugal_cache_errors_total", operation="similar")
            rounds += 1
            await asyncio.sleep(SYNC_S)

    async def _begin(self, settings: SimilarSettings) -> None:
        embedding = await self._run(lambda: self._load(settings.embedding))
        self._index, self._embedding = Index(embedding.dim, settings.max_entries), embedding
        self._last_id, self._seen = 0, {}
        self._vectors.clear()
        self._loaded = (settings.embedding, settings.max_entries)
        log.info("similarity lookup: on, with %s", settings.embedding)

    def _follow(self, trial: Trial) -> None:
        self._threshold = trial.threshold
        self._metrics.set("frugal_similar_threshold", trial.threshold)

    async def _find(self, ask: Ask, group: str, get: Callable[[str], Awaitable[StoredAnswer | None]]) -> Found | None:
        question, threshold = question_of(ask), self._threshold
        asked = reading(question)
        for known, similarity in await self._in_thread(lambda: self._nearest(group, question, threshold)):
            reason = conflict(reading(known.question), asked)
            if reason is not None:
                self._metrics.inc("frugal_similar_stopped_total", reason=reason)
            elif (answer := await get(known.key)) is None:
                await self._missed(known.key)
            else:
                self._missing.pop(known.key, None)
                return Found(answer, similarity)
        return None

    async def _missed(self, key: str) -> None:
        """An answer is too old, deleted or dropped for room, or its store is down: the question goes when it is still so after a while."""
        if self._now() - self._missing.setdefault(key, self._now()) >= FORGET_AFTER_S:
            await self._in_thread(lambda: self._index.remove(key))
            await asyncio.to_thread(self._rows.remove, key)
            self._missing.pop(key, None)

    def _nearest(self, group: str, question: str, threshold: float) -> list[tuple[Known, float]]:
        found = self._index.nearest(group, self._vector(question), threshold, MAX_CANDIDATES)
        for known, _ in found[:1]:
            self._index.used(known.key)
        return found

    def _learn(self, known: Known) -> tuple[str, Vectors]:
        vector = self._vector(known.question)
        self._index.add(known, vector)
        assert self._embedding is not None
        return self._embedding.name, vector

    def _take(self, newer: list[StoredQuestion]) -> None:
        for row in newer:
            self._index.add(Known(row.key, row.group, row.question), np.frombuffer(row.vector, dtype="<f2").astype(np.float32))

    def _vector(self, question: str) -> Vectors:
        if question not in self._vectors:
            self._vectors[question] = self._embed([question])[0]
        return self._vectors[question]

    def _embed(self, texts: list[str]) -> Vectors:
        assert self._embedding is not None
        return self._embedding(texts)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Done by the thread that owns embedding and index; refused where its line is long."""
        if self._waiting >= MAX_WAITING:
            raise _Busy
        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1


class _Busy(Exception):
    """Too many lookups wait for the thread."""
