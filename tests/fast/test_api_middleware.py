"""What goes around every request: an id, one measurement, harmless labels."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from serve_app.api.app import build_app
from serve_app.api.middleware import BodyLimit
from tests.fast.fakes_api import MODEL, FakeServices, article
from tests.fast.fakes_http import app_of, chat_body, client_of


@pytest.mark.parametrize("given", ["r-1", "A.b_c:9", "x" * 128])
async def test_a_sane_request_id_comes_back(given: str) -> None:
    reply = await client_of(FakeServices()).get("/health", headers={"x-request-id": given})
    assert reply.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "<script>", "é".encode("latin-1").decode("latin-1")])
async def test_any_other_becomes_a_new_one(given: str) -> None:
    reply = await client_of(FakeServices()).get("/health", headers=[(b"x-request-id", given.encode("latin-1"))])
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])


async def test_errors_carry_the_id_and_nosniff_too() -> None:
    reply = await client_of(FakeServices()).get("/nowhere", headers={"x-request-id": "r-1"})
    assert (reply.headers["x-request-id"], reply.headers["x-content-type-options"]) == ("r-1", "nosniff")


async def test_behind_serve_which_sends_the_id_it_is_not_sent_twice() -> None:
    app = build_app(FakeServices(), sends_request_id=False)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        reply = await client.get("/health", headers={"x-request-id": "r-1"})
    assert ("x-request-id" in reply.headers, reply.headers["x-content-type-options"]) == (False, "nosniff")


async def test_requests_are_counted_by_route_template_and_status() -> None:
    services = FakeServices(all_articles=[article("a0")])
    client = client_of(services)
    await client.get("/v1/articles/a0")
    await client.get("/v1/articles/nope")
    await client.get(f"/v1/models/{MODEL}")
    await client.get("/some/random/path")
    await client.request("BREW", "/health")
    await client.post("/v1/feeds", json={"url": "https://example.org/"}, headers={"origin": "null"})
    await client.post("/v1/chat/completions", json=chat_body(stream=True))
    assert services.observed == [
        ("GET", "/v1/articles/{article_id}", 200),
        ("GET", "/v1/articles/{article_id}", 404),
        ("GET", "/v1/models/{model_id:path}", 200),
        ("GET", "unmatched", 404),
        ("other", "/health", 405),
        ("POST", "unmatched", 403),
        ("POST", "/v1/chat/completions", 200),
    ]


async def test_a_client_that_leaves_while_it_sends_reaches_no_route() -> None:
    async def unreachable(scope: object, receive: object, send: object) -> None:
        raise AssertionError("the route was called")

    messages: Iterator[dict[str, object]] = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, object]:
        return next(messages)

    async def send(message: object) -> None:
        raise AssertionError("something was sent")

    await BodyLimit(unreachable, FakeServices())({"type": "http", "method": "POST", "headers": []}, receive, send)


def test_the_application_can_be_made_twice() -> None:
    assert app_of(FakeServices()).openapi() == app_of(FakeServices()).openapi()
