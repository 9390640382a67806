"""Streams over a real socket: the status waits for the first item, a break is said, a client that leaves stops the work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from serve_app.api.connection import EventStream
from serve_app.errors import ContextLengthExceeded, FrugalError, GenerationFailed, Overloaded
from serve_app.settings import IngressSettings
from tests.fast.fakes_api import MODEL, FakeServices
from tests.fast.fakes_http import chat_body, client_of, served

CHAT = "/v1/chat/completions"


async def events_of(services: FakeServices, path: str = CHAT, **body: Any) -> list[Any]:
    """The data of every event of one stream; [DONE] as it is."""
    reply = await client_of(services).post(path, json=body or chat_body(stream=True))
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    events = [part.removeprefix("data: ") for part in reply.text.split("\n\n")[:-1]]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


async def test_the_role_travels_with_the_first_text_and_the_reason_with_the_last_chunk() -> None:
    events = await events_of(FakeServices())
    assert events.pop() == "[DONE]"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert [event["choices"] for event in events] == [
        [{"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": " world"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
    ]
    assert not any("usage" in event for event in events)


async def test_usage_comes_last_and_without_choices() -> None:
    *_, before, last, done = await events_of(FakeServices(), **chat_body(stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert before["usage"] is None
    assert (last["choices"], last["usage"]["total_tokens"], last["frugal"]["cache"]) == ([], 9, "miss")


async def test_running_usage_counts_what_was_generated_so_far() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, _ = await events_of(FakeServices(), **chat_body(stream=True, stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 2]
    assert last["usage"]["prompt_tokens"] == 7


async def test_an_answer_without_text_is_one_chunk_with_role_and_reason() -> None:
    services = FakeServices()
    services.will_say("")
    first, done = await events_of(services)
    assert done == "[DONE]"
    assert first["choices"] == [{"index": 0, "delta": {"role": "assistant"}, "logprobs": None, "finish_reason": "stop"}]


async def test_completions_stream_text() -> None:
    *chunks, done = await events_of(FakeServices(), "/v1/completions", model=MODEL, prompt="Once", stream=True)
    assert done == "[DONE]"
    assert [(chunk["object"], chunk["choices"][0]["text"]) for chunk in chunks] == [
        ("text_completion", "Hello"),
        ("text_completion", " world"),
        ("text_completion", ""),
    ]


async def test_a_line_separator_inside_a_text_does_not_split_an_event() -> None:
    services = FakeServices()
    services.will_say("a\u2028b\r\n\x85c")
    reply = await client_of(services).post(CHAT, json=chat_body(stream=True))
    first = next(line for line in reply.text.splitlines() if line)
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["content"] == "a\u2028b\r\n\x85c"


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Overloaded("full", retry_after_s=1.5), 429, {"retry-after": "2"}),
        (ContextLengthExceeded("too long"), 400, {}),
    ],
)
async def test_an_error_before_the_first_item_chooses_the_status(error: FrugalError, status: int, headers: dict[str, str]) -> None:
    services = FakeServices()
    services.will_refuse(error)
    reply = await client_of(services).post(CHAT, json=chat_body(stream=True))
    assert (reply.status_code, reply.json()) == (status, error.body())
    assert headers.items() <= dict(reply.headers).items()


async def test_an_error_right_after_the_opening_chooses_the_status_too() -> None:
    services = FakeServices()
    services.will_break(Overloaded("full", retry_after_s=2), after=0)
    reply = await client_of(services).post(CHAT, json=chat_body(stream=True))
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "2")
    assert services.closed.is_set()


async def test_an_error_in_mid_stream_is_sent_and_no_done_follows() -> None:
    services = FakeServices()
    error = GenerationFailed("the engine broke")
    services.will_break(error)
    events = await events_of(services)
    assert events[0]["choices"][0]["delta"]["content"] == "Hello"
    assert events[1:] == [error.body()]


async def test_a_stream_without_an_ending_is_an_error_and_not_a_short_answer() -> None:
    services = FakeServices()
    services.will_stop_short()
    events = await events_of(services)
    assert [event.get("error", {}).get("code") for event in events] == [None, "generation_failed"]


async def test_a_cancelled_ending_is_an_error() -> None:
    services = FakeServices()
    services.will_say("Hel", reason="cancelled")
    events = await events_of(services)
    assert [event.get("error", {}).get("code") for event in events] == [None, "cancelled"]


async def test_a_stream_over_the_time_limit_ends_with_an_error() -> None:
    services = FakeServices(settings=IngressSettings(request_timeout_s=0.05))
    services.will_hang()
    events = await events_of(services)
    assert events[-1]["error"]["code"] == "timeout"
    assert services.closed.is_set()


async def test_a_stream_that_ended_well_closes_its_source() -> None:
    services = FakeServices()
    await events_of(services)
    assert services.closed.is_set()


@pytest.mark.parametrize("chunks_before", [0, 1])
async def test_a_client_that_leaves_a_stream_closes_it(chunks_before: int) -> None:
    services = FakeServices()
    services.will_hang(after=chunks_before)
    async with served(services) as url, httpx.AsyncClient(base_url=url) as client:
        request = asyncio.create_task(_read(client, chat_body(stream=True)))
        await asyncio.wait_for(services.waiting.wait(), 5)
        request.cancel()
        await asyncio.wait_for(services.closed.wait(), 5)


async def test_a_client_that_leaves_a_plain_request_cancels_it() -> None:
    services = FakeServices()
    services.will_hang()
    async with served(services) as url, httpx.AsyncClient(base_url=url) as client:
        request = asyncio.create_task(client.post(CHAT, json=chat_body()))
        await asyncio.wait_for(services.waiting.wait(), 5)
        request.cancel()
        await asyncio.wait_for(services.closed.wait(), 5)
    assert services.observed == [("POST", CHAT, 499)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_the_server_cancels_stops_the_work(stream: bool) -> None:
    services = FakeServices()
    services.will_hang()
    request = asyncio.create_task(client_of(services).post(CHAT, json=chat_body(stream=stream)))
    await asyncio.wait_for(services.waiting.wait(), 5)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert services.closed.is_set()


async def test_a_client_that_is_gone_before_the_first_event_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            yield b"second"
        finally:
            closed.set()

    async def events() -> AsyncIterator[bytes]:
        yield b"never sent"

    async def receive() -> Message:
        return await asyncio.Future()

    async def send(message: Message) -> None:
        raise OSError("the connection is closed")

    items = source()
    assert await anext(items) == b"first"
    await EventStream(events(), items, {})({"type": "http"}, receive, send)
    assert closed.is_set()


async def test_the_first_event_arrives_before_the_last_is_made() -> None:
    services = FakeServices()
    services.will_hang()
    async with served(services) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", CHAT, json=chat_body(stream=True)) as reply:
            line = await asyncio.wait_for(anext(reply.aiter_lines()), 5)
            assert json.loads(line.removeprefix("data: "))["choices"][0]["delta"]["content"] == "Hello"
        await asyncio.wait_for(services.closed.wait(), 5)


async def _read(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    async with client.stream("POST", CHAT, json=body) as reply:
        async for _ in reply.aiter_raw():
            pass
