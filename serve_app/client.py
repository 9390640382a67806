"""Asks a running server over HTTP, for the command line. Every error comes out as one line that says what to do.

Tests: tests/fast/test_client.py against the real routes, tests/ray against the real graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 600.0  # of a generation on a busy machine
PAGE = 100


class ClientError(Exception):
    """The server is not there, or it refused; the message is for a person."""


class Client:
    """A context manager over one connection pool. `timeout_s`: how long the server may keep silent. `key` opens the administrator's
    routes. `transport` is for tests."""

    def __init__(
        self, url: str = DEFAULT_URL, transport: httpx.BaseTransport | None = None, timeout_s: float = TIMEOUT_S, key: str | None = None
    ) -> None:
        self.url = url.rstrip("/")
        headers = {b"authorization": f"Bearer {key}".encode("utf-8", "surrogateescape")} if key else None
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout_s, transport=transport, trust_env=False, headers=headers)
        except httpx.InvalidURL as error:
            raise ClientError(f"{url}: not an address: {error}; write it like {DEFAULT_URL}") from None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **params: str | float | None) -> Any:
        """The JSON under a path."""
        return self._json("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send JSON, get JSON."""
        return self._json("POST", path, json=body)

    def delete(self, path: str) -> None:
        """Remove what is under a path."""
        self._json("DELETE", path)

    def remove(self, path: str, **params: str | float) -> Any:
        """Remove what the parameters say; the JSON of the reply."""
        return self._json("DELETE", path, params=params)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Change what is under a path; its JSON."""
        return self._json("PATCH", path, json=body)

    def send(self, path: str, body: bytes, content_type: str | None = None) -> Any:
        """Send JSON lines, or what else the path takes; get JSON."""
        return self._json("POST", path, content=body, headers={"Content-Type": content_type} if content_type else {})

    def download(self, path: str, **params: str) -> tuple[bytes, Mapping[str, str]]:
        """A file as it is, and the headers that it came with."""
        try:
            reply = self._http.get(path, params=params)
        except httpx.RequestError as error:
            raise self._lost(error) from None
        if reply.is_error:
            raise ClientError(_reason(reply))
        return reply.content, reply.headers

    def lines(self, method: str, path: str, body: bytes | None = None, **params: str | float) -> Iterator[dict[str, Any]]:
        """The JSON lines of a reply, as they come."""
        try:
            with self._http.stream(method, path, content=body, params=params) as reply:
                if reply.is_error:
                    reply.read()
                    raise ClientError(_reason(reply))
                for line in reply.iter_lines():
                    yield json.loads(line)
        except httpx.RequestError as error:
            raise self._lost(error) from None

    def pages(self, path: str, most: int, **params: str | float | None) -> Iterator[dict[str, Any]]:
        """The first `most` items of a list, over as many pages as it takes."""
        cursor: str | None = None
        while most > 0:
            page = self.get(path, limit=min(most, PAGE), cursor=cursor, **params)
            yield from page["data"][:most]
            most -= len(page["data"])
            cursor = page["next_cursor"]
            if not page["has_more"]:
                return

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The JSON events of a stream up to [DONE]; an error event or a broken stream raises."""
        try:
            with self._http.stream("POST", path, json={**body, "stream": True}) as reply:
                if reply.is_error:
                    reply.read()
                    raise ClientError(_reason(reply))
                for line in reply.iter_lines():
                    data = line.removeprefix("data: ") if line.startswith("data: ") else None
                    if data == "[DONE]":
                        return
                    if data is not None:
                        yield _event(data)
        except httpx.RequestError as error:
            raise self._lost(error) from None
        raise ClientError("the stream broke off before its end; ask again")

    def _json(self, method: str, path: str, **options: Any) -> Any:
        try:
            reply = self._http.request(method, path, **options)
        except httpx.RequestError as error:
            raise self._lost(error) from None
        data = _json_of(reply)
        if reply.is_error and not (path == "/ready" and isinstance(data, dict) and "ready" in data):  # not ready is a 503, and an answer
            raise ClientError(_reason(reply))
        if data is None and reply.content:
            raise ClientError(_foreign(reply))
        return data

    def _lost(self, error: httpx.RequestError) -> ClientError:
        if isinstance(error, httpx.ConnectError):
            return ClientError(f"no server answers at {self.url}; start one with `frugal-serve serve`, or name another with --url")
        if isinstance(error, httpx.UnsupportedProtocol):
            return ClientError(f"{self.url}: not an address of a server; write it like {DEFAULT_URL}")
        return ClientError(f"{self.url}: {type(error).__name__}: {error}; is the server still running?")


def _event(data: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(data)
    if "error" in event:
        raise ClientError(str(event["error"].get("message")))
    return event


def _json_of(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        return None


def _reason(reply: httpx.Response) -> str:
    try:
        error = reply.json()["error"]
        param = f" ({error['param']})" if error.get("param") else ""
        return f"{error['message']}{param}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return _foreign(reply)


def _foreign(reply: httpx.Response) -> str:
    return f"{reply.status_code} {reply.reason_phrase} from {reply.request.url}; is that a Frugal Serve?"
