"""Names to addresses, in threads of our own: a name server that does not answer must not take the threads that the database needs.

Tests: tests/fast/test_feeds_guard.py.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

NUM_THREADS = 64  # at least as many as feeds are checked at once; a thread exists only once it was needed


class ThreadResolver(AbstractResolver):
    """The system's resolver. `close` leaves the threads alone, because each fetch has a connector that closes its resolver."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="feeds-dns")

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Every address of a name. Raises OSError where it has none."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host, port, family)
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST)
            for kind, _type, proto, _name, address in found
        ]

    async def close(self) -> None:
        """Nothing; see `stop`."""

    def stop(self) -> None:
        """Begin no further look-up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _look_up(host: str, port: int, family: int) -> list[tuple[socket.AddressFamily, int, int, str, tuple[object, ...]]]:
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)  # type: ignore[return-value]
