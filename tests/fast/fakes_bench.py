"""A tiny real server with one behaviour at a time, and a clock that a test moves.

async with TinyServer() as server:
    server.behave = server.answers          # or streams, fails_with(500), cuts_the_stream, hangs ...
    async with server.sender() as sender: ...
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from serve_app.bench.sender import PATH, Sender

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def whole(**changes: Any) -> dict[str, Any]:
    """A chat completion of two tokens."""
    message = {"role": "assistant", "content": "Hello world"}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE, **changes}


def piece(text: str, ending: str | None = None) -> dict[str, Any]:
    """One event of a stream."""
    return {"choices": [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": ending}], "usage": None}


def event(data: Any) -> bytes:
    """As it travels."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


HELLO = event(piece("Hello"))
WORLD = event(piece(" world"))
STOP = event(piece("", "stop"))
COUNTS = event({"choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
ABOUT: dict[str, Any] = {
    "/ready": {"ready": True, "waiting_for": [], "errors": []},
    "/v1/models": {"data": [{"id": "tiny", "quantization": "nf4", "dtype": "bfloat16", "device": "cpu", "fingerprint": "ab"}]},
    "/openapi.json": {"info": {"version": "1.2.3"}},
}


class TinyServer:
    """Counts what it was asked; `outstanding` is now, `most_outstanding` ever. `release` lets the hanging requests go on."""

    def __init__(self) -> None:
        self.behave: Behaviour = self.answers
        self.cache = "hit"
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.outstanding = self.most_outstanding = 0
        self.release = asyncio.Event()
        self.arrived = asyncio.Condition()
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(PATH, self._handle)
        for path, data in ABOUT.items():
            app.router.add_get(path, _gives(data))
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release.set()
        await self._runner.cleanup()

    def sender(self, timeout_s: float = 30.0, connections: int = 8) -> Sender:
        """What sends to it."""
        return Sender(self.url, connections, timeout_s, {})

    async def until_outstanding(self, number: int) -> None:
        """Wait until so many requests are here and unanswered."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.outstanding == number)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        async with self.arrived:
            self.outstanding += 1
            self.most_outstanding = max(self.most_outstanding, self.outstanding)
            self.arrived.notify_all()
        try:
            return await self.behave(request)
        finally:
            self.outstanding -= 1

    # Behaviours

    async def answers(self, _request: web.Request) -> web.StreamResponse:
        """A whole answer."""
        return web.json_response(whole(), headers={"x-cache": self.cache})

    async def hangs(self, request: web.Request) -> web.StreamResponse:
        """Nothing until `release`, then a whole answer."""
        await self.release.wait()
        return await self.answers(request)

    def says(self, body: bytes) -> Behaviour:
        """A 200 with this body."""

        async def behave(_request: web.Request) -> web.StreamResponse:
            return web.Response(body=body)

        return behave

    def fails_with(self, status: int) -> Behaviour:
        """An error of ours."""

        async def behave(_request: web.Request) -> web.StreamResponse:
            return web.json_response({"error": {"message": "no"}}, status=status, headers={"retry-after": "1"})

        return behave

    def streams(self, *parts: bytes, cut: bool = False) -> Behaviour:
        """These parts, each in a write of its own; `cut` closes the connection in the middle of the stream."""

        async def behave(request: web.Request) -> web.StreamResponse:
            reply = web.StreamResponse(headers={"x-cache": self.cache, "content-type": "text/event-stream"})
            await reply.prepare(request)
            for part in parts:
                await reply.write(part)
            if cut:
                _close(request)
            return reply

        return behave

    async def hangs_up(self, request: web.Request) -> web.StreamResponse:
        """Closes the connection instead of an answer."""
        _close(request)
        return web.Response()


def _close(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.close()


def _gives(data: Any) -> Behaviour:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.json_response(data)

    return handle


class HandClock:
    """Time passes only when somebody sleeps, or `pass_s` is called."""

    def __init__(self) -> None:
        self._now = 1000.0

    def now(self) -> float:
        """See Clock."""
        return self._now

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    async def sleep_until(self, when: float) -> None:
        """See Clock. Whoever can do something does it first."""
        for _ in range(5):
            await asyncio.sleep(0)
        self._now = max(self._now, when)
