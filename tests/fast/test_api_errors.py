"""Every error is OpenAI's error JSON, whatever raised it, and a bug shows an id while the log shows the cause."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from serve_app.settings import IngressSettings
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_http import chat_body, client_of

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def error_of(reply: httpx.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "words"),
    [
        ("GET", "/nowhere", 404, "not_found", "'/nowhere'; /docs lists every path"),
        ("GET", CHAT, 405, "method_not_allowed", "use POST"),
        ("PUT", "/v1/feeds", 405, "method_not_allowed", "is not allowed at '/v1/feeds'"),
        ("GET", "/v1/models/gpt-9", 404, "model_not_found", "ask for one of tiny/model"),
        ("GET", "/v1/articles/zzz", 404, "not_found", "zzz"),
        ("GET", "/v1/feeds/", 404, "not_found", "'/v1/feeds/'"),
    ],
)
async def test_a_path_or_method_that_is_not_there(method: str, path: str, status: int, code: str, words: str) -> None:
    reply = await client_of(FakeServices()).request(method, path)
    error = error_of(reply)
    assert (reply.status_code, error["code"]) == (status, code)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (b"{", JSON, "not valid JSON"),
        (b'{"model": nul}', JSON, "at character 10"),
        (b"", JSON, "not a JSON object"),
        (b"[]", JSON, "not a JSON object"),
        (b'"text"', JSON, "not a JSON object"),
        (b"\xff\xfe{", JSON, "JSON"),
        (b"[" * 100_000, JSON, "JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", JSON, "JSON"),
        (b'{"temperature": NaN, "model": "tiny/model", "messages": [{"role": "user", "content": "x"}]}', JSON, "temperature"),
        (b'{"temperature": 1e999, "model": "tiny/model", "messages": [{"role": "user", "content": "x"}]}', JSON, "temperature"),
        (b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}', JSON, "model"),
        (b'{"model": "tiny/model", "\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}', JSON, "JSON object"),
        (b"{}", {"content-type": "text/plain"}, "'text/plain'; send JSON with Content-Type: application/json"),
        (b"model=x", {"content-type": "application/x-www-form-urlencoded"}, "send JSON with Content-Type: application/json"),
        (b"{}", {}, "send JSON with Content-Type: application/json"),
    ],
)
async def test_a_body_that_cannot_be_read(content: bytes, headers: dict[str, str], words: str) -> None:
    reply = await client_of(FakeServices()).post(CHAT, content=content, headers=headers)
    error = error_of(reply)
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert words in error["message"]


async def test_a_bug_shows_an_id_and_logs_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    services = FakeServices()
    services.will_refuse(RuntimeError("the password is xyzzy"))
    with caplog.at_level(logging.ERROR):
        reply = await client_of(services).post(CHAT, json=chat_body(), headers={"x-request-id": "r-9"})
    assert (reply.status_code, error_of(reply)["message"]) == (500, "internal error; the server's log has the cause under request r-9")
    assert "r-9" in caplog.text
    assert "the password is xyzzy" in caplog.text
    assert services.observed == [("POST", CHAT, 500)]


async def test_a_bug_in_mid_stream_shows_an_id_too() -> None:
    services = FakeServices()
    services.will_crash(RuntimeError("the password is xyzzy"))
    reply = await client_of(services).post(CHAT, json=chat_body(stream=True), headers={"x-request-id": "r-9"})
    assert (reply.status_code, "[DONE]" in reply.text, "xyzzy" in reply.text) == (200, False, False)
    assert "the server's log has the cause under request r-9" in reply.text


async def test_a_body_over_the_limit_is_a_413_by_its_declared_size() -> None:
    services = FakeServices(settings=IngressSettings(max_body_bytes=1000))
    reply = await client_of(services).post(CHAT, json=chat_body(user="x" * 1000))
    assert (reply.status_code, error_of(reply)["code"]) == (413, "request_too_large")
    assert "max_body_bytes, 1000 bytes" in error_of(reply)["message"]


async def test_a_body_over_the_limit_is_a_413_by_what_was_read() -> None:
    services = FakeServices(settings=IngressSettings(max_body_bytes=1000))
    sent = 0

    async def pour() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 100
            yield b"x" * 100

    reply = await client_of(services).post(CHAT, content=pour(), headers=JSON)
    assert (reply.status_code, error_of(reply)["code"]) == (413, "request_too_large")
    assert sent <= 1200
    assert services.asked == []


async def test_a_body_at_the_limit_passes() -> None:
    body = b'{"url": "https://example.org/' + b"x" * 969 + b'"}'
    services = FakeServices(settings=IngressSettings(max_body_bytes=len(body)))
    assert (await client_of(services).post("/v1/feeds", content=body, headers=JSON)).status_code == 201
