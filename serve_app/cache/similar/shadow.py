"""Shadow samples: some answers that were taken from a similar question are generated all the same, and compared.

They run in the background at low priority, outlive the request that caused them, and are few at a time. What they cost is booked under
`shadow`; the new answer is stored under its own key, so that it is not made for the comparison alone.
Tests: tests/fast/test_similar_answers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from serve_app.cache.books import Books
from serve_app.cache.similar.rules import Found
from serve_app.messages import Ask, Chunk, Finish, Generate, Item
from serve_app.store.answers import StoredAnswer

log = logging.getLogger(__name__)

MAX_SAMPLES = 4  # at once


class SimilarAnswers(Protocol):
    """See lookup.py; `find` and `learn` never raise."""

    async def find(self, ask: Ask, fingerprint: str, get: Callable[[str], Awaitable[StoredAnswer | None]]) -> Found | None: ...

    async def learn(self, ask: Ask, fingerprint: str, key: str) -> None: ...

    def wants_sample(self) -> bool: ...

    async def judge(self, found: Found, answer: str) -> bool: ...


class Shadow:
    """`keep` stores an answer under a key."""

    def __init__(
        self,
        generate: Callable[[Generate], AsyncGenerator[Item, None]],
        keep: Callable[[str, Ask, Chunk, Finish], Awaitable[None]],
        books: Books,
    ) -> None:
        self._generate = generate
        self._keep = keep
        self._books = books
        self._running: dict[str, asyncio.Task[None]] = {}

    def consider(self, similar: SimilarAnswers, key: str, ask: Ask, found: Found) -> None:
        """The question `key` got `found`: perhaps find out what the model would have said."""
        if key in self._running or len(self._running) >= MAX_SAMPLES or not similar.wants_sample():
            return
        # A fresh context: Serve cancels what a request started when its caller leaves.
        task = asyncio.create_task(self._sample(similar, key, ask, found), context=contextvars.Context())
        self._running[key] = task
        task.add_done_callback(lambda _task: self._running.pop(key, None))

    async def close(self) -> None:
        """Give up what is running."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _sample(self, similar: SimilarAnswers, key: str, ask: Ask, found: Found) -> None:
        try:
            made = await self._make(ask)
            if made is not None:
                if not ask.policy.no_store:
                    await self._keep(key, ask, *made)
                await similar.judge(found, made[0].text)
        except Exception:
            log.exception("a sample of the similarity lookup failed; it does not count")

    async def _make(self, ask: Ask) -> tuple[Chunk, Finish] | None:
        """The whole answer, or None where it has no clean end: an overloaded model says nothing about the lookup."""
        generate = replace(ask.generate, request_id=f"{ask.generate.request_id}.shadow", priority="batch")
        chunks: list[Chunk] = []
        async with contextlib.aclosing(self._generate(generate)) as items:
            async for item in items:
                if isinstance(item, Chunk):
                    chunks.append(item)
                elif isinstance(item, Finish):
                    self._books.generation(ask, "shadow", item)
                    return None if item.reason == "cancelled" else (Chunk.joined(chunks), item)
        return None
