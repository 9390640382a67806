"""The real HTTP application over a graph of fakes, in this process or behind a real server."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import State
from starlette.middleware import Middleware

from serve_app.api.app import build_app
from serve_app.api.middleware import AROUND
from tests.fast.fakes_api import MODEL, FakeServices


def app_of(services: FakeServices) -> FastAPI:
    """The application over these services. The tests of a process share its routes: FastAPI prepares each again for each application."""
    app = copy.copy(_built())
    app.state = State({"services": services, "sends_request_id": True})
    app.user_middleware = [Middleware(layer, services) for layer in AROUND]
    app.middleware_stack = None
    return app


def client_of(services: FakeServices, **options: Any) -> httpx.AsyncClient:
    """A client that calls the application in this process, without a socket."""
    transport = httpx.ASGITransport(app=app_of(services), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", **options)


@contextlib.asynccontextmanager
async def served(services: FakeServices) -> AsyncIterator[str]:
    """The application behind a real server on a loopback port; gives its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # connections queue from here on, so nobody has to wait for the server's start
        server = uvicorn.Server(uvicorn.Config(app_of(services), log_config=None, lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


def chat_body(**changes: Any) -> dict[str, Any]:
    """The smallest chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **changes}


@functools.cache
def _built() -> FastAPI:
    return build_app(FakeServices())
