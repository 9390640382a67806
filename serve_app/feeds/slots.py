"""A bounded set of tasks, one per key: a slot is free again as soon as its task ends, not when a whole round has.

Tests: tests/fast/test_feeds_loop.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Slots:
    """Runs coroutines; `on_free` is called when one ends."""

    def __init__(self, on_free: Callable[[], None]) -> None:
        self._on_free = on_free
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._error: BaseException | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def keys(self) -> list[str]:
        """What is running."""
        return list(self._tasks)

    def start(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` under a key that is not running."""
        assert key not in self._tasks, f"{key} runs already"
        task = self._tasks[key] = asyncio.create_task(work)
        task.add_done_callback(lambda done: self._ended(key, done))

    def check(self) -> None:
        """Raise what a task raised. Work that can fail in ordinary ways handles that itself; what arrives here ends the loop's round."""
        if self._error is not None:
            raise self._error

    async def cancel(self) -> None:
        """Cancel every task and wait for its end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
        self._on_free()
