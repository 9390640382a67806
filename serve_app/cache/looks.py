"""Looks into the store of answers, of each key one at a time: a crowd with one question reads it once.

The store may fail: then nothing was found, with a metric and a log line, never an error. Tests: tests/fast/test_answers.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from typing import Protocol

from serve_app.metrics import Metrics
from serve_app.store.answers import StoredAnswer

log = logging.getLogger(__name__)


class Store(Protocol):
    """Where whole answers are kept."""

    async def get(self, key: str) -> StoredAnswer | None: ...

    async def put(self, answer: StoredAnswer) -> None: ...


class Looks:
    """All calls on one event loop."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._running: dict[str, asyncio.Task[StoredAnswer | None]] = {}
        self._callers: Counter[str] = Counter()
        self._put_since: set[str] = set()  # of the keys that somebody waits for

    async def get(self, key: str) -> StoredAnswer | None:
        """What is stored under the key, whatever its age."""
        self._callers[key] += 1
        try:
            held = await self._look(key)
            # Of two who looked together, the first may have found nothing, generated and stored before the second had its turn.
            return await self._look(key) if held is None and key in self._put_since else held
        finally:
            self._callers[key] -= 1
            if not self._callers[key]:
                del self._callers[key]
                self._put_since.discard(key)

    async def _look(self, key: str) -> StoredAnswer | None:
        look = self._running.get(key)
        if look is None:
            # A fresh context: Serve cancels what a request started when its caller leaves, and this look may have other callers.
            look = self._running[key] = asyncio.create_task(self._get(key), context=contextvars.Context())
            look.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(look)

    async def put(self, answer: StoredAnswer) -> bool:
        """Store it; False where that failed."""
        try:
            await self._store.put(answer)
        except Exception:
            log.exception("cannot store an answer; it is sent all the same")
            self._metrics.inc("frugal_cache_errors_total", operation="put")
            return False
        if answer.key in self._callers:
            self._put_since.add(answer.key)
        self._running.pop(answer.key, None)  # what is being read there is older; those who wait for it still get it
        return True

    def forget(self) -> None:
        """Something was deleted: who comes now looks anew."""
        self._running.clear()

    async def close(self) -> None:
        """Wait for those that run; the store ends them in its own time."""
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _get(self, key: str) -> StoredAnswer | None:
        try:
            return await self._store.get(key)
        except Exception:
            log.exception("cannot read a stored answer; it counts as a miss")
            self._metrics.inc("frugal_cache_errors_total", operation="get")
            return None

    def _done(self, key: str, look: asyncio.Task[StoredAnswer | None]) -> None:
        if self._running.get(key) is look:
            del self._running[key]
