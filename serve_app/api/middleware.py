"""What happens around every request: an id, a measurement, errors, the origin check and the body's limit. Outermost first in `AROUND`.

Plain ASGI, because Starlette's BaseHTTPMiddleware runs the rest in another task, which breaks streaming and cancellation.
Tests: tests/fast/test_api_middleware.py.
"""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api import origin
from serve_app.api.failures import internal, response_for
from serve_app.api.services import Services
from serve_app.errors import Forbidden, FrugalError, TooLarge

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
KNOWN_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
CLIENT_GONE = 499  # nginx's number for a client that left before the reply; it is counted and never sent


class _Around:
    """One layer around the application; everything but HTTP passes."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app = app
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.http if scope["type"] == "http" else self.app)(scope, receive, send)

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class RequestId(_Around):
    """The caller's x-request-id where it is harmless in a log, or a new one; it comes back on every reply."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SANE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["app"].state.sends_request_id:
                    headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self.app(scope, receive, send_with_id)


class Measure(_Around):
    """Time from the request's head to the end of the reply's body, under the route's template, so that paths cannot flood the metrics."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.monotonic(), CLIENT_GONE

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in KNOWN_METHODS else "other"
            self.services.observe(method, route, status, time.monotonic() - started)


class Errors(_Around):
    """The last catch: an error that no route handled becomes JSON, unless the reply has begun; then the connection breaks off."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note_begin(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, note_begin)
        except Exception as error:
            if begun:
                raise
            known = error if isinstance(error, FrugalError) else internal(error, scope)
            await response_for(known)(scope, receive, send)


class Origins(_Around):
    """A web page that is not ours changes nothing here."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        refused = origin.refusal(
            scope["method"], headers.getlist("origin"), headers.get("host"), headers.get("sec-fetch-site"), self.services.settings
        )
        if refused:
            raise Forbidden(refused)
        await self.app(scope, receive, send)


class BodyLimit(_Around):
    """Reads the whole body, counting, before anything else sees it: Content-Length may be absent or wrong."""

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in origin.SAFE_METHODS:
            await self.app(scope, receive, send)
            return
        limit = self.services.settings.max_body_bytes
        declared = Headers(scope=scope).get("content-length", "")
        if re.fullmatch("[0-9]{1,18}", declared) and int(declared) > limit:
            raise _too_large(limit)
        body = await _read(receive, limit)
        if body is None:
            return  # the client left while it was sending

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message: Message = {"type": "http.request", "body": body, "more_body": False}
            body = None
            return message

        await self.app(scope, replay, send)


async def _read(receive: Receive, limit: int) -> bytes | None:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over max_body_bytes, {limit} bytes; send a shorter text or raise the limit")


AROUND = (RequestId, Measure, Errors, Origins, BodyLimit)
