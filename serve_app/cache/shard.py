"""One AnswerCache replica without Ray: the answers over SQL, and a task that keeps the books and the size of the store.

Tests: tests/fast/test_shard.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from serve_app.cache.answers import Answers
from serve_app.cache.books import flush
from serve_app.live import Live
from serve_app.messages import Generate, Item
from serve_app.metrics import Metrics
from serve_app.settings import AppSettings, CacheSettings
from serve_app.store.answers import AnswerStore, StoredAnswer
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger
from serve_app.store.similar import SimilarStore

if TYPE_CHECKING:
    from serve_app.cache.similar.lookup import Similar

log = logging.getLogger(__name__)

FLUSH_S = 1.0
EVICT_EVERY = 30  # flushes
STORE_TIMEOUT_S = 5.0  # then it counts as failed: a database that hangs must not make every question hang


class AnswerShard:
    """`answers` are open for questions from the start; `start` begins the book-keeping."""

    def __init__(
        self,
        app: AppSettings,
        generate: Callable[[Generate], AsyncGenerator[Item, None]],
        fingerprint: Callable[[], Awaitable[str]],
        promote: Callable[[str], Awaitable[None]],
        session: str = "",
    ) -> None:
        self._database = Database(app.database)
        self._store = AnswerStore(self._database)
        self._ledger = Ledger(self._database)
        self._settings = Live(CacheSettings, "AnswerCache.user_config", app.kept_settings("AnswerCache"), session)
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()
        self._model = app.model.id
        self._similar: Similar | None = None
        self.metrics = Metrics()
        self.answers = Answers(generate, fingerprint, promote, self, self._settings.value, self.metrics)

    async def get(self, key: str) -> StoredAnswer | None:
        """See cache.answers.Store."""
        async with asyncio.timeout(STORE_TIMEOUT_S):
            return await asyncio.to_thread(self._store.get, key)

    async def put(self, answer: StoredAnswer) -> None:
        """See cache.answers.Store."""
        async with asyncio.timeout(STORE_TIMEOUT_S):
            await asyncio.to_thread(self._store.put, answer)

    def start(self) -> None:
        """Begin to keep the books."""
        self._task = asyncio.create_task(self._keep())

    def tune(self, data: Mapping[str, Any]) -> None:
        """Take new settings over, or keep the old ones and say why in `settings_error`."""
        self._settings.update(data)
        self.answers.settings = self._settings.value
        similar = self._settings.value.similar
        if similar.enabled and self._similar is None:
            from serve_app.cache.similar.lookup import Similar  # not before it is wanted

            self._similar = self.answers.similar = Similar(SimilarStore(self._database), self._model, self.metrics)
            self._similar.start()
        if self._similar is not None:
            self._similar.tune(similar)

    @property
    def settings_error(self) -> str | None:
        """What is wrong with the last settings that were not taken over."""
        return self._settings.error

    def check(self) -> None:
        """Raise where this replica must be replaced."""
        if self._task is not None and self._task.done():
            raise RuntimeError("the task that keeps the books is gone")

    async def flush(self) -> None:
        """Bring the books to the ledger. What cannot be stored stays for the next time."""
        async with self._flushing:
            await flush(self.answers.books, self._ledger)

    async def stop(self) -> None:
        """Give everybody who waits an ending, then close the books."""
        if self._task is not None:
            self._task.cancel()
        await self.answers.close()
        if self._similar is not None:
            await self._similar.close()
        await self.flush()
        self._database.close()

    async def _keep(self) -> None:
        flushes = 0
        while True:
            try:
                if flushes % EVICT_EVERY == 0:
                    await asyncio.to_thread(self._trim)
                await self.flush()
            except Exception:
                log.exception("cannot keep the books; trying again")
                self.metrics.inc("frugal_cache_errors_total", operation="flush")
            flushes += 1
            await asyncio.sleep(FLUSH_S)

    def _trim(self) -> None:
        settings = self._settings.value
        gone = self._store.evict(settings.max_bytes, time.time() - settings.ttl_s)
        self.metrics.inc("frugal_cache_evictions_total", gone)
        totals = self._store.totals()
        self.metrics.set("frugal_cache_entries", totals.entries)
        self.metrics.set("frugal_cache_bytes", totals.size_bytes)
