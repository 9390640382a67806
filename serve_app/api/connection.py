"""The client's side of a request: noticing that it left, and streams that stop the moment it does.

Starlette notices a disconnect only while it streams, and on newer servers only at the next chunk; a plain request runs on to its end. Here
whatever is being awaited for a client that left is cancelled at once. Tests: tests/fast/test_api_stream.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection; nobody reads a reply any more."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. The request's body must have been read: the next message is then the disconnect.

    Raises:
        ClientGone: where the client left first; `work` has been cancelled and has ended by then.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def close(items: AsyncIterator[Any]) -> None:
    """Run an async generator's `finally`; other iterators have none."""
    aclose = getattr(items, "aclose", None)
    if aclose is not None:
        await aclose()


class EventStream(Response):
    """Server-sent events, ready-made by `events` from what `source` gives. Both are closed whatever happens.

    `source` apart, because closing a generator that never began does not run its `finally`, and a client may leave before the first event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], source: AsyncIterator[Any], headers: dict[str, str]) -> None:
        self.events = events
        self.source = source
        self.status_code = 200
        self.background = None
        # Proxies must pass each event on at once: X-Accel-Buffering is nginx's word for that.
        self.init_headers({**headers, "cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send(send))
        except (ClientGone, OSError):
            return
        finally:
            await close(self.events)
            await close(self.source)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class JsonLines(EventStream):
    """Lines of JSON, likewise."""

    media_type = "application/x-ndjson"


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
