"""One AnswerCache replica without Ray: the answers over their store, and a task that keeps the books and the size of the store.

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
from serve_app.cache.layers import LayeredAnswers
from serve_app.cache.rules import kept_s
from serve_app.live import Live
from serve_app.messages import Generate, Item, Selection
from serve_app.metrics import Metrics
from serve_app.settings import AppSettings
from serve_app.settings_cache import CacheSettings
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger
from serve_app.store.open_answers import open_answers
from serve_app.store.similar import SimilarStore

if TYPE_CHECKING:
    from serve_app.cache.similar.lookup import Similar

log = logging.getLogger(__name__)

FLUSH_S = 1.0
TRIM_EVERY = 30  # flushes


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
        self._ledger = Ledger(self._database)
        self._settings = Live(CacheSettings, "AnswerCache.user_config", app.kept_settings("AnswerCache"), session)
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()
        self._app = app
        self._similar: Similar | None = None
        self.metrics = Metrics()
        backend = open_answers(app, self._database, lambda: self.metrics.inc("frugal_cache_errors_total", operation="corrupt"))
        self._stored = LayeredAnswers(backend, self._settings.value, self.metrics)
        self.answers = Answers(generate, fingerprint, promote, self._stored, self._settings.value, self.metrics)

    def start(self) -> None:
        """Begin to keep the books."""
        self._task = asyncio.create_task(self._keep())

    def tune(self, data: Mapping[str, Any]) -> None:
        """Take new settings over, or keep the old ones and say why in `settings_error`."""
        self._settings.update(data)
        self.answers.settings = self._settings.value
        self._stored.tune(self._settings.value)
        similar = self._settings.value.similar
        if similar.enabled and self._similar is None:
            from serve_app.cache.similar.lookup import Similar  # not before it is wanted

            rows, with_answers = SimilarStore(self._database), self._app.answers_url is None
            self._similar = self.answers.similar = Similar(rows, self._app.model.id, self.metrics, with_answers=with_answers)
            self._similar.start()
        if self._similar is not None:
            self._similar.tune(similar)

    def forget(self, selection: Selection) -> None:
        """These were deleted from the store: let none of them be served from memory."""
        self._stored.forget(selection)
        self.answers.forget()

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
        await self._stored.note_hits()
        if self._similar is not None:
            await self._similar.close()
        await self.flush()
        self._stored.close()
        self._database.close()

    async def _keep(self) -> None:
        flushes = 0
        while True:
            try:
                if flushes % TRIM_EVERY == 0 or self._stored.wants_trim:
                    await self._trim()
                await self._stored.note_hits()
                await self.flush()
            except Exception:
                log.exception("cannot keep the books; trying again")
                self.metrics.inc("frugal_cache_errors_total", operation="flush")
            flushes += 1
            await asyncio.sleep(FLUSH_S)

    async def _trim(self) -> None:
        longest_ttl_s, stale_s = kept_s(self._settings.value)
        expired_before = time.time() - stale_s
        await self._stored.trim(expired_before - longest_ttl_s, expired_before)
