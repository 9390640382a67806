"""One request at a time per host, and a gap between two of them: feeds of one host must not arrive there as a burst.

Tests: tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import yarl

MAX_HOSTS = 1_000
# Where every user has a host name of their own and all of them reach one operator, who counts requests together.
HOSTERS = ("blogspot.com", "ghost.io", "github.io", "livejournal.com", "medium.com", "substack.com", "tumblr.com", "wordpress.com")


def scope(host: str) -> str:
    """The name under which requests to this host are counted: its own, or its hoster's."""
    name = host.lower().rstrip(".")
    return next((hoster for hoster in HOSTERS if name.endswith(f".{hoster}")), name)


def host_scope(url: str) -> str:
    """The same for an address; empty where it has no host."""
    try:
        return scope(yarl.URL(url).raw_host or "")
    except ValueError:
        return ""


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
        """Wait for the turn of a host (or its hoster), and keep it for the block."""
        host = self._hosts.setdefault(scope(name), _Host())
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

    def free_at(self, name: str) -> float:
        """When a request to this host may begin without waiting; infinity while another one runs."""
        host = self._hosts.get(scope(name))
        if host is None:
            return float("-inf")
        return float("inf") if host.num_users else host.ended_at + self._gap_s

    def _forget(self) -> None:
        if len(self._hosts) > MAX_HOSTS:
            idle = [name for name, host in self._hosts.items() if not host.num_users and host.ended_at + self._gap_s < self._now()]
            for name in idle:
                del self._hosts[name]
