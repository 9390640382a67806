"""One request at a time per host, and a gap between two of them: feeds of one host must not arrive there as a burst.

Tests: tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

MAX_HOSTS = 1_000


@dataclass(slots=True)
class _Host:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended_at: float = float("-inf")
    num_users: int = 0


class Pacing:
    """Hands out turns. `now` is monotonic; `sleep` waits for so many seconds."""

    def __init__(self, gap_s: float, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._gap_s = gap_s
        self._now = now
        self._sleep = sleep
        self._hosts: dict[str, _Host] = {}

    @contextlib.asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for this host's turn, and keep it for the block."""
        host = self._hosts.setdefault(name, _Host())
        host.num_users += 1
        try:
            async with host.lock:
                wait_s = host.ended_at + self._gap_s - self._now()
                if wait_s > 0:
                    await self._sleep(wait_s)
                try:
                    yield
                finally:
                    host.ended_at = self._now()
        finally:
            host.num_users -= 1
            self._forget()

    def _forget(self) -> None:
        if len(self._hosts) > MAX_HOSTS:
            idle = [name for name, host in self._hosts.items() if not host.num_users and host.ended_at + self._gap_s < self._now()]
            for name in idle:
                del self._hosts[name]
