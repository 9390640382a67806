"""One request of the load test against a real server on loopback: what a good answer comes to, and every way in which it goes wrong."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from serve_app.bench.replies import Question, Reading
from serve_app.bench.samples import Reply, RequestFailed
from serve_app.bench.sender import Sender
from tests.fast.fakes_bench import COUNTS, DONE, HELLO, STOP, WORLD, TinyServer, event, piece, whole

PLAIN = Question(b'{"n": 1}')
STREAM = Question(b"{}", stream=True)


@pytest.fixture
async def server() -> AsyncIterator[TinyServer]:
    async with TinyServer() as server:
        yield server


async def kind_of_failure(server: TinyServer, question: Question, timeout_s: float = 30.0) -> str:
    async with server.sender(timeout_s) as sender:
        with pytest.raises(RequestFailed) as failed:
            await sender.send(question)
    return failed.value.kind


async def test_a_whole_answer_gives_its_counts_and_how_the_cache_made_it(server: TinyServer) -> None:
    async with Sender(server.url, 1, 30.0, {"cache-control": "no-store"}) as sender:
        assert await sender.send(PLAIN) == Reply(7, 2, "hit")
    assert server.asked == [{"n": 1}]
    assert (server.headers[0]["content-type"], server.headers[0]["cache-control"]) == ("application/json", "no-store")


async def test_a_stream_gives_the_time_of_each_text_and_the_counts_of_its_usage(server: TinyServer) -> None:
    server.behave = server.streams(HELLO, WORLD, STOP, COUNTS, DONE)
    async with server.sender() as sender:
        reply = await sender.send(STREAM)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cache, len(reply.text_at)) == (7, 2, "hit", 2)
    assert reply.text_at[0] <= reply.text_at[1]


def test_events_may_come_in_any_pieces() -> None:
    everything = (HELLO + WORLD + STOP + COUNTS + DONE).replace(b"\n", b"\r\n")
    reading = Reading(STREAM, None)
    for number, byte in enumerate(everything):
        reading.feed(bytes([byte]), float(number))
    text_at = tuple(float(everything.index(text) + everything[everything.index(text) :].index(b"\n")) for text in (HELLO[:-2], WORLD[:-2]))
    assert reading.reply() == Reply(7, 2, None, text_at)


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_an_error_is_counted_by_its_status_and_not_sent_again(server: TinyServer, status: int) -> None:
    server.behave = server.fails_with(status)
    assert await kind_of_failure(server, PLAIN) == f"status_{status}"
    assert await kind_of_failure(server, STREAM) == f"status_{status}"
    assert len(server.asked) == 2


async def test_a_connection_is_used_again_after_an_error(server: TinyServer) -> None:
    server.behave = server.fails_with(500)
    async with server.sender(connections=1) as sender:
        for _ in range(2):
            with pytest.raises(RequestFailed):
                await sender.send(PLAIN)
        server.behave = server.answers
        assert (await sender.send(PLAIN)).completion_tokens == 2


async def test_a_server_that_hangs_is_a_timeout(server: TinyServer) -> None:
    server.behave = server.hangs
    assert await kind_of_failure(server, PLAIN, timeout_s=0.05) == "timeout"


async def test_a_closed_connection_is_told_from_a_broken_answer(server: TinyServer) -> None:
    server.behave = server.hangs_up
    assert await kind_of_failure(server, PLAIN) == "disconnected"
    server.behave = server.streams(HELLO, cut=True)
    assert await kind_of_failure(server, STREAM) == "broken"


async def test_nobody_there_is_a_failure_to_connect() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        async with Sender(f"http://127.0.0.1:{probe.getsockname()[1]}", 1, 30.0, {}) as sender:
            with pytest.raises(RequestFailed, match="connect"):
                await sender.send(PLAIN)


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ((HELLO, STOP, COUNTS), "unfinished"),  # no [DONE]
        ((HELLO, STOP, DONE), "unfinished"),  # no usage
        ((HELLO, COUNTS, DONE), "unfinished"),  # no finish reason
        ((HELLO, event(piece("", "cancelled")), COUNTS, DONE), "unfinished"),
        ((HELLO, event({"error": {"message": "broke"}})), "error_event"),
        ((b"data: {\n\n",), "wrong_reply"),
        ((event({"hello": 1}),), "wrong_reply"),
    ],
)
async def test_a_stream_without_a_good_end_is_no_answer(server: TinyServer, parts: tuple[bytes, ...], kind: str) -> None:
    server.behave = server.streams(*parts)
    assert await kind_of_failure(server, STREAM) == kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "wrong_reply"),
        (event(whole())[6:].replace(b"choices", b"chances"), "wrong_reply"),
        (event(whole())[6:].replace(b'"stop"', b"null"), "unfinished"),
    ],
)
async def test_a_200_that_is_no_answer_is_counted_as_such(server: TinyServer, body: bytes, kind: str) -> None:
    server.behave = server.says(body)
    assert await kind_of_failure(server, PLAIN) == kind


async def test_an_answer_of_another_length_than_forced_is_wrong(server: TinyServer) -> None:
    assert await kind_of_failure(server, Question(b"{}", num_tokens=3)) == "wrong_reply"
    async with server.sender() as sender:
        assert (await sender.send(Question(b"{}", num_tokens=2))).completion_tokens == 2
