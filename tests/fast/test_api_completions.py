"""A completion goes down as an Ask and comes back in OpenAI's words, with what it took."""

from __future__ import annotations

import logging

import pytest

from serve_app.errors import GenerationFailed, Overloaded, Unavailable
from serve_app.messages import Ask, CachePolicy, Generate, Message, Sampling
from serve_app.settings import IngressSettings, SamplingDefaults
from tests.fast.fakes_api import KEY, MODEL, FakeServices
from tests.fast.fakes_http import chat_body, client_of

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}


async def test_a_chat_completion_has_openais_fields_and_ours() -> None:
    services = FakeServices()
    reply = await client_of(services).post("/v1/chat/completions", json=chat_body(), headers={"x-request-id": "r-1"})
    body = reply.json()
    assert reply.status_code == 200
    assert isinstance(body.pop("created"), int)
    assert body == {
        "id": "chatcmpl-r-1",
        "object": "chat.completion",
        "model": MODEL,
        "system_fingerprint": "0123456789abcdef",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "frugal": {
            "cache": "miss",
            "age_s": None,
            "compute_s": 0.5,
            "avoided_s": 0.0,
            "cost_usd": 0.000007,
            "batch_size": 3,
            "ttft_s": 0.1,
            "queue_s": 0.01,
        },
    }
    assert services.asked == [Ask(Generate("r-1", MODEL, Sampling(), messages=(Message("user", "Hi"),)))]


async def test_a_completion_takes_the_prompt_as_it_is() -> None:
    services = FakeServices()
    reply = await client_of(services).post("/v1/completions", json={"model": MODEL, "prompt": ["Once"]}, headers={"x-request-id": "r-2"})
    body = reply.json()
    assert (body["object"], body["id"]) == ("text_completion", "cmpl-r-2")
    assert body["choices"] == [{"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}]
    assert services.asked == [Ask(Generate("r-2", MODEL, Sampling(), prompt="Once"))]


async def test_what_a_request_leaves_open_comes_from_the_settings_of_that_moment() -> None:
    services = FakeServices()
    client = client_of(services)
    defaults = SamplingDefaults(temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, repetition_penalty=1.1, max_tokens=33)
    services.settings = IngressSettings(sampling=defaults)
    await client.post("/v1/chat/completions", json=chat_body())
    await client.post("/v1/chat/completions", json=chat_body(temperature=0, top_p=1, top_k=0, min_p=0, repetition_penalty=1, max_tokens=5))
    plain = Sampling(temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, repetition_penalty=1.1, max_tokens=33)
    assert [ask.generate.sampling for ask in services.asked] == [plain, Sampling(max_tokens=5)]


async def test_a_hit_says_its_age_and_that_nothing_was_spent() -> None:
    services = FakeServices()
    services.will_open("hit", age_s=12.9)
    reply = await client_of(services).post("/v1/chat/completions", json=chat_body())
    assert {name: reply.headers[name] for name in ("x-cache", "age", "x-cache-key")} == {"x-cache": "hit", "age": "12", "x-cache-key": KEY}
    assert reply.json()["frugal"] == {
        "cache": "hit",
        "age_s": 12.9,
        "compute_s": 0.0,
        "avoided_s": 0.5,
        "cost_usd": 0.0,
        "batch_size": None,
        "ttft_s": None,
        "queue_s": None,
    }


async def test_a_miss_has_no_age() -> None:
    reply = await client_of(FakeServices()).post("/v1/chat/completions", json=chat_body())
    assert reply.headers["x-cache"] == "miss"
    assert "age" not in reply.headers


async def test_header_and_body_say_together_what_may_be_reused() -> None:
    services = FakeServices()
    cache = {"no-store": True, "max-age": 90, "sampled": "always"}
    await client_of(services).post("/v1/chat/completions", json=chat_body(cache=cache), headers={"Cache-Control": "no-cache, max-age=60"})
    assert services.asked[0].policy == CachePolicy(no_cache=True, no_store=True, max_age_s=60.0, sampled_always=True)


async def test_an_answer_that_was_given_up_is_no_reply() -> None:
    services = FakeServices()
    services.will_say("Hel", reason="cancelled")
    reply = await client_of(services).post("/v1/chat/completions", json=chat_body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "cancelled")


async def test_an_unknown_model_is_a_404_that_lists_the_known_ones() -> None:
    reply = await client_of(FakeServices()).post("/v1/chat/completions", json=chat_body(model="gpt-9"))
    assert reply.status_code == 404
    assert reply.json()["error"] == {
        "message": f"model: there is no 'gpt-9' here; send one of {MODEL}",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_an_overload_says_when_to_come_back() -> None:
    services = FakeServices()
    services.will_refuse(Overloaded("256 requests wait; try again in 3 s", retry_after_s=2.1))
    reply = await client_of(services).post("/v1/chat/completions", json=chat_body())
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")


async def test_the_wait_is_at_least_a_second() -> None:
    services = FakeServices()
    services.will_refuse(Unavailable("loading", retry_after_s=0.0))
    reply = await client_of(services).post("/v1/chat/completions", json=chat_body())
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


async def test_a_model_that_still_loads_has_no_fingerprint_and_answers_all_the_same() -> None:
    services = FakeServices(loaded=())
    first = await client_of(services).post("/v1/chat/completions", json=chat_body())
    services.break_part("cards", Unavailable("the replica has just gone"))
    second = await client_of(services).post("/v1/chat/completions", json=chat_body())
    assert [reply.json()["system_fingerprint"] for reply in (first, second)] == [None, None]


async def test_user_and_metadata_are_logged_under_the_requests_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.api")
    body = chat_body(user="ada\nforged line", metadata={"team": "x"})
    await client_of(FakeServices()).post("/v1/chat/completions", json=body, headers={"x-request-id": "r-3"})
    assert caplog.messages == ["request r-3: user='ada\\nforged line' metadata={'team': 'x'}"]


async def test_a_generation_that_broke_is_a_500_that_says_so() -> None:
    services = FakeServices()
    services.will_break(GenerationFailed("the engine broke; send the request again"))
    reply = await client_of(services).post("/v1/chat/completions", json=chat_body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "generation_failed")


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    services = FakeServices(settings=IngressSettings(request_timeout_s=0.01))
    services.will_hang()
    reply = await client_of(services).post("/v1/chat/completions", json=chat_body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
    assert "request_timeout_s" in reply.json()["error"]["message"]
    assert services.closed.is_set()
