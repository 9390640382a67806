"""Sends one question over HTTP and says what came back. The cost per request matters: generator and server share the same cores.

Measured on two cores against a bare server with a reply of 1,000 bytes, CPU of the client per request, 1 connection / 32 connections:
httpx 0.51 / 2.2 ms, aiohttp 0.12 / 0.076 ms, aiohttp on uvloop 0.088 / 0.053 ms, a protocol of one's own over httptools on uvloop
0.026 / 0.008 ms. aiohttp on uvloop is far below what the server takes (about 1 ms), so the well-kept library stays.
Tests: tests/fast/test_bench_sender.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

import aiohttp

from serve_app.bench.load import WALL
from serve_app.bench.replies import Question, Reading, whole
from serve_app.bench.samples import Reply, RequestFailed

PATH = "/v1/chat/completions"


class Sender:
    """An async context manager over one pool of at most `connections` connections. `timeout_s` is for a whole request."""

    def __init__(
        self, url: str, connections: int, timeout_s: float, headers: Mapping[str, str], now: Callable[[], float] = WALL.now
    ) -> None:
        self._address = url.rstrip("/") + PATH
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = {"content-type": "application/json", **headers}
        self._now = now

    async def __aenter__(self) -> Sender:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=self._headers,
            timeout=self._timeout,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def send(self, question: Question) -> Reply:
        """The reply to one question.

        Raises:
            RequestFailed: `status_<code>`; `connect`; `disconnected` before a status; `broken` within the body; `timeout`; `error_event`
                (a stream that ends in an error); `unfinished` (no clean ending); `wrong_reply` (not what was asked for).
        """
        answered = False
        try:
            async with self._session.post(self._address, data=question.body) as reply:
                answered = True
                if reply.status != 200:
                    await reply.read()  # so that the connection can be used again
                    raise RequestFailed(f"status_{reply.status}")
                if not question.stream:
                    return whole(await reply.read(), question, reply.headers.get("x-cache"))
                reading = Reading(question, reply.headers.get("x-cache"))
                async for data in reply.content.iter_any():
                    reading.feed(data, self._now())
                return reading.reply()
        except TimeoutError:
            raise RequestFailed("timeout") from None
        except aiohttp.ClientConnectorError:
            raise RequestFailed("connect") from None
        except (aiohttp.ClientError, OSError):
            raise RequestFailed("broken" if answered else "disconnected") from None
