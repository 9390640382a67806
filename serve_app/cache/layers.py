"""Stored answers in layers: memory in front of a store that may fail.

The cache fails open, here and nowhere else: a store that is down, slow or damaged means a miss, a metric, and a log line per change of its
state, never an error and never a wait of more than the timeout. Tests: tests/fast/test_layers.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve_app.cache.circuit import Circuit
from serve_app.cache.memory import Memory
from serve_app.messages import Selection
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings
from serve_app.store.answers import AnswerBackend, StoredAnswer

T = TypeVar("T")

log = logging.getLogger(__name__)

NUM_THREADS = 8  # of our own: calls that hang must not take the threads that keep the books
MAX_NOTED = 50_000  # keys whose hits are remembered until the store takes them
TRIM_TIMEOUT_S = 60.0  # nobody waits for it
TELL_AGAIN_S = 60.0  # of single failures at most one is told in this time
TRIM_AFTER = 0.05  # of max_bytes put since the last trim


class LayeredAnswers:
    """What cache.answers.Store asks for. `now` is a clock in seconds that does not go back."""

    def __init__(
        self, backend: AnswerBackend, settings: CacheSettings, metrics: Metrics, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._circuit = Circuit()
        self._told_at = -TELL_AGAIN_S
        self._threads = ThreadPoolExecutor(NUM_THREADS, "answers")
        self._hits: Counter[str] = Counter()
        self._bytes_put = 0
        self.memory = Memory(settings.memory_bytes, settings.memory_ttl_s, now)
        metrics.set("frugal_cache_store_up", 1)

    def tune(self, settings: CacheSettings) -> None:
        """Take new settings over."""
        self._settings = settings
        self.memory.tune(settings.memory_bytes, settings.memory_ttl_s)

    async def get(self, key: str) -> StoredAnswer | None:
        """The answer, from memory or from the store."""
        layer, epoch = "memory", self.memory.epoch
        found = self.memory.get(key)
        if found is None:
            layer = "store"
            found = await self._tried("get", lambda: self._backend.get(key))
            if found is not None:
                self.memory.fill(found, epoch)
        if found is not None and (key in self._hits or len(self._hits) < MAX_NOTED):
            self._hits[key] += 1
        self._metrics.inc("frugal_cache_lookups_total", layer=layer if found is not None else "nowhere")
        return found

    async def put(self, answer: StoredAnswer) -> None:
        """Store it, and have it at hand, also while the store is down."""
        epoch = self.memory.epoch
        await self._tried("put", lambda: self._backend.put(answer))
        self._bytes_put += len(answer.text)
        self.memory.fill(answer, epoch)

    def forget(self, selection: Selection) -> None:
        """Somebody deleted these from the store."""
        self.memory.forget(selection)

    @property
    def wants_trim(self) -> bool:
        """So much was put since the last trim that the next one should not wait for its turn."""
        return self._bytes_put > self._settings.max_bytes * TRIM_AFTER

    async def note_hits(self) -> None:
        """Bring the hits since the last time to the store, in one step; those that it does not take are not worth keeping."""
        if self._hits:
            hits, self._hits = self._hits, Counter()
            await self._tried("hits", lambda: self._backend.note_hits(hits), TRIM_TIMEOUT_S)

    async def trim(self, older_than: float, expired_before: float) -> None:
        """Keep the store within its bounds (see AnswerStore.evict) and tell its size."""
        self._bytes_put = 0
        max_bytes = self._settings.max_bytes

        def work() -> tuple[int, int, int]:
            gone = self._backend.evict(max_bytes, older_than, expired_before)
            totals = self._backend.totals()
            return gone, totals.entries, totals.size_bytes

        found = await self._tried("evict", work, TRIM_TIMEOUT_S)
        if found is not None:
            self._metrics.inc("frugal_cache_evictions_total", found[0])
            self._metrics.set("frugal_cache_entries", found[1])
            self._metrics.set("frugal_cache_bytes", found[2])
        entries, size_bytes = self.memory.totals()
        self._metrics.set("frugal_cache_memory_entries", entries)
        self._metrics.set("frugal_cache_memory_bytes", size_bytes)

    def close(self) -> None:
        """Let go of the store; a call that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._backend.close()

    async def _tried(self, operation: str, call: Callable[[], T], timeout_s: float | None = None) -> T | None:
        if not self._circuit.allows(self._now()):
            self._metrics.inc("frugal_cache_errors_total", operation=operation)
            return None
        try:
            async with asyncio.timeout(timeout_s or self._settings.store_timeout_s):
                result = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except Exception as error:
            self._metrics.inc("frugal_cache_errors_total", operation=operation)
            self._tell_failure(operation, error)
            return None
        if (down_s := self._circuit.worked(self._now())) is not None:
            log.warning("the store of answers works again, after %.0f s", down_s)
            self._metrics.set("frugal_cache_store_up", 1)
        return result

    def _tell_failure(self, operation: str, error: Exception) -> None:
        now = self._now()
        cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if self._circuit.failed(now):
            log.warning("the store of answers is down (%s: %s); every question is a miss until it works again", operation, cause)
            self._metrics.set("frugal_cache_store_up", 0)
        elif not self._circuit.is_open and now - self._told_at >= TELL_AGAIN_S:
            log.warning("the store of answers failed (%s: %s); the question counts as a miss", operation, cause)
            self._told_at = now
