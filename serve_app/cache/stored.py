"""What an administrator does with the stored answers: look, list, delete, export, import.

Over the store itself, and not over the shards, so that it works while they are down; who keeps answers in memory is told what was deleted.
Tests: tests/fast/test_api_admin.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from serve_app.errors import FrugalError, Unavailable
from serve_app.messages import Selection
from serve_app.store.answer_lines import to_line
from serve_app.store.answers import AnswerBackend, Entry, Group, Place, StoredAnswer

T = TypeVar("T")

log = logging.getLogger(__name__)

STEP = 100  # answers read at once for an export


class StoredAnswers:
    """`forget` tells everybody who may hold deleted answers in memory, and how many were told.

    Raises:
        Unavailable: the store, or somebody who had to be told, does not answer.
    """

    def __init__(self, backend: AnswerBackend, forget: Callable[[Selection], Awaitable[int]]) -> None:
        self._backend = backend
        self._forget = forget

    async def find(self, key: str) -> tuple[Entry, StoredAnswer] | None:
        """An answer and what is known about it."""

        def work() -> tuple[Entry, StoredAnswer] | None:
            answer = self._backend.get(key)
            entries = self._backend.page(Selection(key=key), 1)
            return (entries[0], answer) if answer is not None and entries else None

        return await _asked(work)

    async def page(self, selection: Selection, limit: int, after: Place | None) -> list[Entry]:
        """See AnswerStore."""
        return await _asked(lambda: self._backend.page(selection, limit, after))

    async def groups(self) -> list[Group]:
        """See AnswerStore."""
        return await _asked(self._backend.groups)

    async def delete(self, selection: Selection) -> tuple[int, int]:
        """How many answers went, and how many replicas were told to forget them.

        In this order: whoever reads an answer after it was told to forget it finds it in the store no more.
        """
        gone = await _asked(lambda: self._backend.delete(selection))
        return gone, await self._forget(selection)

    async def take(self, answers: Sequence[StoredAnswer]) -> int:
        """Store answers from elsewhere, unless what is there is as new or newer; how many are stored now.

        Some of them may have replaced older ones that somebody holds in memory, so all memory is given up, once.
        """
        num_stored = await _asked(lambda: sum(self._backend.put(answer, only_newer=True) for answer in answers))
        if num_stored:
            await self._forget(Selection())
        return num_stored

    async def lines(self, selection: Selection) -> AsyncIterator[str]:
        """The answers as lines that `take` can read again, the newest first."""
        after: Place | None = None
        while entries := await self.page(selection, STEP, after):
            answers = await _asked(lambda found=entries: [self._backend.get(entry.key) for entry in found])  # type: ignore[misc]
            for answer in answers:
                if answer is not None:
                    yield to_line(answer)
            after = entries[-1].created_at, entries[-1].key

    def close(self) -> None:
        """Let go of the store."""
        self._backend.close()


async def _asked(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except FrugalError:
        raise
    except Exception as error:
        log.warning("the store of answers does not answer: %s: %s", type(error).__name__, error)
        raise Unavailable("the store of answers does not answer at the moment; try again shortly", retry_after_s=2) from None
