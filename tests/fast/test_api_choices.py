"""Several answers to one request: each an ask of its own, all of them or an error; and the time that a request allows itself."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx
import pytest

from serve_app.api.openai import ChatRequest
from serve_app.api.replies import frugal, outcome
from serve_app.cache.answers import Answers
from serve_app.errors import GenerationFailed, Overloaded
from serve_app.messages import Answer, Ask, Opening, Outcome
from serve_app.metrics import Metrics
from serve_app.settings import IngressSettings
from serve_app.settings_cache import CacheSettings
from tests.fast.fakes import FakeModel, MemoryStore
from tests.fast.fakes_api import KEY, MODEL, FakeServices, finish
from tests.fast.fakes_http import chat_body, client_of, served
from tests.fast.test_api_stream import CHAT, events_of


def asks_of(**body: Any) -> tuple[Ask, ...]:
    return ChatRequest.model_validate(chat_body(**body)).asks("r", IngressSettings().sampling)


class SharedAnswers(FakeServices):
    """The routes over real single flight and a model that the test speaks for."""

    def __init__(self) -> None:
        super().__init__()
        self.model = FakeModel()
        model, store = self.model, MemoryStore()
        self.answers = Answers(model.generate, model.fingerprint, model.promote, store, CacheSettings(), Metrics(), lambda: 0.0)

    async def answer(self, ask: Ask) -> Answer:
        return await self.answers.whole(ask)

    async def until_callers(self, num: int) -> None:
        """Wait until so many wait for answers that are being made."""
        async with asyncio.timeout(10):
            for _ in itertools.count():
                if self.answers.flights.num_followers == num:
                    return
                await asyncio.sleep(0)


def told(asks: tuple[Ask, ...]) -> list[tuple[str, int | None, int]]:
    return [(ask.generate.request_id, ask.generate.sampling.seed, ask.generate.choice) for ask in asks]


def test_each_answer_has_a_seed_of_its_own_so_that_it_can_be_made_again() -> None:
    assert told(asks_of(n=3, temperature=1, seed=7)) == [("r", 7, 0), ("r.1", 8, 0), ("r.2", 9, 0)]
    assert told(asks_of(n=2, temperature=1, seed=2**63 - 1))[1] == ("r.1", 0, 0)


def test_greedy_answers_are_one_question_and_those_left_to_chance_are_several() -> None:
    assert told(asks_of(n=2)) == [("r", None, 0), ("r.1", None, 0)]
    assert told(asks_of(n=3, temperature=1)) == [("r", None, 0), ("r.1", None, 1), ("r.2", None, 2)]


async def test_the_choices_come_in_order_and_the_prompt_counts_once() -> None:
    services = FakeServices()
    reply = await client_of(services).post(CHAT, json=chat_body(n=3))
    body = reply.json()
    assert [(choice["index"], choice["message"]["content"]) for choice in body["choices"]] == [(at, "Hello world") for at in range(3)]
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 6,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert (body["frugal"]["compute_s"], body["frugal"]["batch_size"]) == (1.5, 3)
    assert [ask.generate.request_id.partition(".")[2] for ask in services.asked] == ["", "1", "2"]
    assert (reply.headers["x-cache"], reply.headers["x-cache-key"]) == ("miss", KEY)


async def test_a_completion_has_several_choices_too() -> None:
    reply = await client_of(FakeServices()).post("/v1/completions", json={"model": MODEL, "prompt": "Once", "n": 2})
    assert [(choice["index"], choice["text"]) for choice in reply.json()["choices"]] == [(0, "Hello world"), (1, "Hello world")]


async def test_every_chunk_of_a_stream_says_whose_it_is_and_the_usage_comes_after_the_last_choice() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, done = await events_of(FakeServices(), **chat_body(n=2, stream=True, stream_options=options))
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    for index in (0, 1):
        own = [choice for choice in choices if choice["index"] == index]
        assert [choice["delta"] for choice in own] == [{"role": "assistant", "content": "Hello"}, {"content": " world"}, {}]
        assert [choice["finish_reason"] for choice in own] == [None, None, "stop"]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-1] == 4
    assert (last["choices"], last["usage"]["completion_tokens"], last["usage"]["prompt_tokens"]) == ([], 4, 7)


async def test_log_probabilities_travel_with_their_chunks() -> None:
    services = FakeServices()
    services.will_tell_logprobs()
    first, second, last, _ = await events_of(services, **chat_body(stream=True, logprobs=True, top_logprobs=1))
    best = {"token": "best", "logprob": -0.25, "bytes": list(b"best")}
    token = {"token": "Hello", "logprob": -0.5, "bytes": list(b"Hello"), "top_logprobs": [best]}
    assert first["choices"][0]["logprobs"] == {"content": [token], "refusal": None}
    assert second["choices"][0]["logprobs"]["content"][0]["token"] == " world"
    assert last["choices"][0]["logprobs"] is None


async def test_an_answer_of_no_tokens_has_an_empty_list_where_they_were_asked_for() -> None:
    services = FakeServices()
    services.will_say("")
    reply = await client_of(services).post(CHAT, json=chat_body(logprobs=True))
    assert reply.json()["choices"][0]["logprobs"] == {"content": [], "refusal": None}


async def test_one_choice_that_fails_fails_the_reply_and_cancels_the_others() -> None:
    services = FakeServices()
    services.will_hang()
    services.will_refuse_choice(1, Overloaded("full; wait", retry_after_s=2))
    reply = await client_of(services).post(CHAT, json=chat_body(n=2))
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "overloaded")
    assert services.closed.is_set()


async def test_one_choice_that_fails_ends_the_stream_and_cancels_the_others() -> None:
    services = FakeServices()
    services.will_hang()
    services.will_refuse_choice(1, GenerationFailed("the engine broke"))
    events = await events_of(services, **chat_body(n=2, stream=True))
    assert events[-1]["error"]["code"] == "generation_failed"
    assert services.closed.is_set()


async def test_a_client_that_leaves_gives_all_choices_up() -> None:
    services = FakeServices()
    services.will_hang()
    async with served(services) as url, httpx.AsyncClient(base_url=url) as client:
        request = asyncio.create_task(client.post(CHAT, json=chat_body(n=2, stream=True)))
        await asyncio.wait_for(services.waiting.wait(), 5)
        request.cancel()
        await asyncio.wait_for(services.closed.wait(), 5)


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [(["hit", "hit"], "hit"), (["hit", "join"], "join"), (["miss", "join"], "miss"), (["miss", "bypass"], "bypass")],
)
def test_a_reply_is_a_hit_only_where_all_of_it_is(outcomes: list[Outcome], whole: Outcome) -> None:
    openings = [Opening(one, KEY, 5.0 + number if one == "hit" else None) for number, one in enumerate(outcomes)]
    told = frugal(openings, [finish(), finish()])
    assert outcome(openings) == told["cache"] == whole
    assert told["age_s"] == (6.0 if whole == "hit" else None)
    num_reused = sum(one in ("hit", "join") for one in outcomes)
    assert (told["compute_s"], told["avoided_s"]) == (0.5 * (2 - num_reused), 0.5 * num_reused)


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_that_takes_longer_than_its_request_allows_is_given_up(n: int) -> None:
    services = FakeServices()
    services.will_hang()
    reply = await client_of(services).post(CHAT, json=chat_body(timeout_s=0.01, n=n))
    assert reply.status_code == 504
    assert reply.json()["error"] == {
        "message": "timeout_s: the answer took longer than 0.01 s; ask for fewer tokens with max_tokens, or allow more time",
        "type": "server_error",
        "param": "timeout_s",
        "code": "deadline_exceeded",
    }
    assert services.closed.is_set()


async def test_a_stream_that_takes_longer_than_its_request_allows_ends_with_an_error() -> None:
    services = FakeServices()
    services.will_hang()
    events = await events_of(services, **chat_body(timeout_s=0.05, stream=True))
    assert events[-1]["error"]["code"] == "deadline_exceeded"
    assert services.closed.is_set()


async def test_the_servers_own_limit_holds_where_a_request_allows_more() -> None:
    services = FakeServices(settings=IngressSettings(request_timeout_s=0.01))
    services.will_hang()
    reply = await client_of(services).post(CHAT, json=chat_body(timeout_s=100))
    assert reply.json()["error"]["code"] == "timeout"


async def test_greedy_choices_cost_one_generation() -> None:
    services = SharedAnswers()
    asking = asyncio.create_task(client_of(services).post(CHAT, json=chat_body(n=4)))
    await services.until_callers(4)
    await services.model.started.wait()
    services.model.say("two ", "words")
    services.model.finish()
    reply = await asking
    assert [choice["message"]["content"] for choice in reply.json()["choices"]] == ["two words"] * 4
    assert (reply.headers["x-cache"], reply.json()["frugal"]["compute_s"], reply.json()["frugal"]["avoided_s"]) == ("miss", 0.5, 1.5)
    assert len(services.model.requests) == 1


async def test_a_deadline_ends_its_own_caller_and_nobody_who_joined() -> None:
    services = SharedAnswers()
    short = asyncio.create_task(client_of(services).post(CHAT, json=chat_body(timeout_s=0.5)))
    await services.until_callers(1)
    joined = asyncio.create_task(client_of(services).post(CHAT, json=chat_body()))
    await services.until_callers(2)
    assert (await short).status_code == 504
    assert services.model.cancelled == []
    services.model.say("two ", "words")
    services.model.finish()
    reply = await joined
    assert (reply.json()["choices"][0]["message"]["content"], reply.headers["x-cache"]) == ("two words", "join")


async def test_a_deadline_that_nobody_else_waits_behind_stops_the_generation() -> None:
    services = SharedAnswers()
    reply = await client_of(services).post(CHAT, json=chat_body(timeout_s=0.05))
    assert reply.status_code == 504
    await asyncio.wait_for(services.model.stopped.wait(), 5)
    assert services.answers.flights.num_followers == 0


async def test_a_deadline_is_no_part_of_the_question() -> None:
    assert asks_of(timeout_s=5) == asks_of(timeout_s=9) == asks_of()
