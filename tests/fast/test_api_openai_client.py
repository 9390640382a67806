"""OpenAI's own client is the contract: what it sends is understood, what we send it parses, our errors become its exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from serve_app.errors import GenerationFailed, Overloaded
from serve_app.messages import CachePolicy
from tests.fast.fakes_api import MODEL, FakeServices
from tests.fast.fakes_http import served


@contextlib.asynccontextmanager
async def openai_of(services: FakeServices) -> AsyncIterator[openai.AsyncOpenAI]:
    async with served(services) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def test_chat_plain() -> None:
    async with openai_of(FakeServices()) as client:
        reply = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], temperature=0)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Hello world", "stop")
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert (reply.usage.total_tokens, reply.usage.prompt_tokens_details.cached_tokens) == (9, 4)
    assert reply.system_fingerprint == "0123456789abcdef"
    assert reply.model_extra is not None
    assert reply.model_extra["frugal"]["cache"] == "miss"


async def test_chat_stream_with_usage() -> None:
    text, usage = "", None
    async with openai_of(FakeServices()) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
    assert text == "Hello world"
    assert usage is not None
    assert usage.completion_tokens == 2


async def test_the_clients_own_accumulator_understands_the_stream() -> None:
    async with (
        openai_of(FakeServices()) as client,
        client.chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": "Hi"}]) as stream,
    ):
        final = await stream.get_final_completion()
    assert (final.choices[0].message.content, final.choices[0].message.role) == ("Hello world", "assistant")


async def test_completions_plain_and_streamed() -> None:
    async with openai_of(FakeServices()) as client:
        reply = await client.completions.create(model=MODEL, prompt="Once", max_tokens=5)
        stream = await client.completions.create(model=MODEL, prompt="Once", stream=True)
        texts = [choice.text async for chunk in stream for choice in chunk.choices]
    assert reply.choices[0].text == "".join(texts) == "Hello world"


async def test_models_list_and_one_model_with_a_slash_in_its_id() -> None:
    async with openai_of(FakeServices()) as client:
        listed = [model.id async for model in client.models.list()]
        one = await client.models.retrieve(MODEL)
    assert (listed, one.id, one.created, one.owned_by) == ([MODEL], MODEL, 1_700_000_000, "frugal-serve")


async def test_cache_control_by_extra_body_and_extra_headers() -> None:
    services = FakeServices()
    async with openai_of(services) as client:
        await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            extra_body={"cache": {"no-cache": True}},
            extra_headers={"Cache-Control": "no-store"},
        )
    assert services.asked[0].policy == CachePolicy(no_cache=True, no_store=True)


async def test_a_bad_field_is_a_bad_request_error_that_names_it() -> None:
    async with openai_of(FakeServices()) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], n=9)
    assert (caught.value.param, caught.value.code, caught.value.type) == ("n", "invalid_value", "invalid_request_error")
    assert "a whole number from 1 to 8" in caught.value.message


async def test_log_probabilities_of_a_chat_whole_and_streamed() -> None:
    services = FakeServices()
    services.will_tell_logprobs()
    async with openai_of(services) as client:
        asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 1}
        reply = await client.chat.completions.create(**asked)
        async with client.chat.completions.stream(**asked) as stream:
            final = await stream.get_final_completion()
    for choice in (reply.choices[0], final.choices[0]):
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        told = [(token.token, token.logprob, token.bytes, token.top_logprobs[0].token) for token in choice.logprobs.content]
        assert told == [("Hello", -0.5, list(b"Hello"), "best"), (" world", -0.5, list(b" world"), "best")]


async def test_log_probabilities_of_a_completion() -> None:
    services = FakeServices()
    services.will_tell_logprobs()
    async with openai_of(services) as client:
        reply = await client.completions.create(model=MODEL, prompt="Once", logprobs=1)
    told = reply.choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["Hello", " world"], [-0.5, -0.5], [0, 5])
    assert told.top_logprobs == [{"best": -0.25, "Hello": -0.5}, {"best": -0.25, " world": -0.5}]


async def test_several_choices_whole_and_streamed() -> None:
    async with openai_of(FakeServices()) as client:
        reply = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], n=3)
        async with client.chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": "Hi"}], n=3) as stream:
            final = await stream.get_final_completion()
    for choices in (reply.choices, final.choices):
        assert [(choice.index, choice.message.content) for choice in choices] == [(number, "Hello world") for number in range(3)]


async def test_a_deadline_is_a_gateway_timeout() -> None:
    services = FakeServices()
    services.will_hang()
    async with openai_of(services) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model=MODEL, prompt="Hi", extra_body={"timeout_s": 0.05})
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (504, "deadline_exceeded", "timeout_s")


async def test_an_unknown_model_is_a_not_found_error() -> None:
    async with openai_of(FakeServices()) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.completions.create(model="gpt-9", prompt="Hi")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_overload_is_a_rate_limit_error_with_its_wait(stream: bool) -> None:
    services = FakeServices()
    services.will_refuse(Overloaded("full", retry_after_s=4))
    async with openai_of(services) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], stream=stream)
    assert caught.value.response.headers["retry-after"] == "4"


async def test_an_error_in_mid_stream_is_an_api_error() -> None:
    services = FakeServices()
    services.will_break(GenerationFailed("the engine broke"))
    async with openai_of(services) as client:
        stream = await client.completions.create(model=MODEL, prompt="Hi", stream=True)
        with pytest.raises(openai.APIError, match="the engine broke"):
            _ = [chunk async for chunk in stream]
