"""The command line's client against the real routes, and against servers that are gone, broken or something else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import httpx
import pytest

from serve_app.client import Client, ClientError
from serve_app.errors import GenerationFailed, Overloaded
from tests.fast.fakes_api import MODEL, FakeServices, article, feed
from tests.fast.fakes_http import chat_body, served

T = TypeVar("T")


class Server:
    """The real routes over fake services; `call` uses a client in a thread, as a command does."""

    def __init__(self, url: str, services: FakeServices) -> None:
        self.url = url
        self.services = services

    async def call(self, use: Callable[[Client], T]) -> T:
        def work() -> T:
            with Client(self.url) as client:
                return use(client)

        return await asyncio.to_thread(work)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    services = FakeServices()
    async with served(services) as url:
        yield Server(url, services)


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> Client:
    """A client of a server that is this function."""
    return Client("http://server.test", transport=httpx.MockTransport(handler))


async def test_get_post_and_delete_reach_the_routes(server: Server) -> None:
    added = await server.call(lambda client: client.post("/v1/feeds", {"url": "https://example.org/new"}))
    assert (added["url"], added["state"]) == ("https://example.org/new", "new")
    listed = await server.call(lambda client: client.get("/v1/feeds"))
    assert [entry["id"] for entry in listed["data"]] == [added["id"]]
    await server.call(lambda client: client.delete(f"/v1/feeds/{added['id']}"))
    assert server.services.all_feeds == {}


async def test_parameters_that_are_none_are_not_sent(server: Server) -> None:
    await server.call(lambda client: client.get("/v1/articles", state="done", feed=None, limit=7))
    (query,) = server.services.queried
    assert (query.state, query.feed_id, query.limit) == ("done", None, 7)


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (100, [100]), (150, [100, 50]), (1000, [100, 100, 100])])
async def test_pages_are_followed_up_to_the_number_that_was_asked_for(server: Server, most: int, sizes: list[int]) -> None:
    server.services.all_articles = [article(f"a{number}") for number in range(250)]
    found = await server.call(lambda client: list(client.pages("/v1/articles", most)))
    assert [entry["id"] for entry in found] == [f"a{number}" for number in range(min(most, 250))]
    assert [query.limit for query in server.services.queried] == sizes


async def test_a_stream_gives_its_events_up_to_the_end(server: Server) -> None:
    server.services.will_say("Two", " words")
    body = chat_body(stream_options={"include_usage": True})
    events = await server.call(lambda client: list(client.stream("/v1/chat/completions", body)))
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert (text, events[-1]["usage"]["completion_tokens"], events[-1]["frugal"]["cache"]) == ("Two words", 2, "miss")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Overloaded("full; try again in 3 s", retry_after_s=3), "full; try again in 3 s"),
        (Overloaded("full", param="model"), "full (model)"),
    ],
)
async def test_a_refused_stream_says_why(server: Server, error: Overloaded, message: str) -> None:
    server.services.will_refuse(error)
    with pytest.raises(ClientError) as caught:
        await server.call(lambda client: list(client.stream("/v1/chat/completions", chat_body())))
    assert str(caught.value) == message


async def test_a_stream_that_fails_after_its_first_words_gives_them_and_then_says_why(server: Server) -> None:
    server.services.will_break(GenerationFailed("the model broke; send the request again"))
    texts: list[str] = []

    def read(client: Client) -> None:
        for event in client.stream("/v1/chat/completions", chat_body()):
            texts.extend(choice["delta"].get("content") or "" for choice in event["choices"])

    with pytest.raises(ClientError, match="the model broke; send the request again"):
        await server.call(read)
    assert texts == ["Hello"]


async def test_what_is_not_ready_is_an_answer_and_not_an_error(server: Server) -> None:
    server.services.state = {"ready": False, "waiting_for": ["model tiny: starting"], "errors": []}
    assert await server.call(lambda client: client.get("/ready")) == server.services.state


async def test_an_error_of_the_routes_says_what_they_said(server: Server) -> None:
    server.services.all_feeds["feed0"] = feed()
    for call, message in (
        (lambda client: client.delete("/v1/feeds/feed0"), "the configuration names this feed; remove it there"),
        (lambda client: client.post("/v1/feeds/none/refresh"), "there is no feed none"),
        (lambda client: client.get(f"/v1/models/{MODEL}x"), "model"),
    ):
        with pytest.raises(ClientError, match=message):
            await server.call(call)


def breaks_off() -> Iterator[bytes]:
    """A stream without its [DONE]."""
    yield b'data: {"choices": []}\n\n'


def is_cut() -> Iterator[bytes]:
    """A stream whose connection is lost."""
    yield b'data: {"choices": []}\n\n'
    raise httpx.RemoteProtocolError("peer closed connection")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (breaks_off, "the stream broke off before its end; ask again"),
        (is_cut, "http://server.test: RemoteProtocolError: peer closed connection; is the server still running?"),
    ],
)
def test_a_stream_without_an_end_is_an_error(stream: Callable[[], Iterator[bytes]], message: str) -> None:
    events = answering(lambda request: httpx.Response(200, content=stream())).stream("/v1/chat/completions", {})
    assert next(events) == {"choices": []}
    with pytest.raises(ClientError) as caught:
        next(events)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "reply", "message"),
    [
        ("/v1/report", httpx.Response(404, text="Not Found"), "404 Not Found from http://server.test/v1/report; is that a Frugal Serve\\?"),
        ("/v1/report", httpx.Response(500, json={"error": "boom"}), "500 Internal Server Error from .*; is that a Frugal Serve\\?"),
        ("/v1/report", httpx.Response(500, json=[1]), "500 Internal Server Error from .*; is that a Frugal Serve\\?"),
        ("/v1/report", httpx.Response(200, text="<html>hello</html>"), "200 OK from .*; is that a Frugal Serve\\?"),
        (
            "/ready",
            httpx.Response(503, text="<html>no server is available</html>"),
            "503 Service Unavailable from .*; is that a Frugal Serve\\?",
        ),
        ("/ready", httpx.Response(503, json={"error": {"message": "starting"}}), "starting"),
    ],
)
def test_a_server_that_is_something_else_is_told_in_one_line(path: str, reply: Any, message: str) -> None:
    with pytest.raises(ClientError, match=f"^{message}$"):
        answering(lambda request: reply).get(path)


def test_a_server_that_is_silent_is_given_up_after_the_time_that_the_caller_chose() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            pytest.raises(ClientError, match=f"^{url}: ReadTimeout: .*; is the server still running"),
            Client(url, timeout_s=0.1) as client,
        ):
            client.get("/ready")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", "no server answers at http://127.0.0.1:1; start one with `frugal-serve serve`, or name another with --url"),
        ("localhost:8000", "localhost:8000: not an address of a server; write it like http://127.0.0.1:8000"),
        ("http://127.0.0.1:many", "http://127.0.0.1:many: not an address: .*; write it like http://127.0.0.1:8000"),
        ("", ": not an address of a server; write it like http://127.0.0.1:8000"),
    ],
)
def test_an_address_without_a_server_says_what_to_do(url: str, message: str) -> None:
    with pytest.raises(ClientError, match=f"^{message}$"), Client(url) as client:
        client.get("/ready")
