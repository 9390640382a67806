"""What a caller is told about the cache in every case, streaming or not, as a chat or as a completion; and what it may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from serve_app.messages import Answer, Ask, Chunk, Generate, Item
from tests.fast.fakes import finish
from tests.fast.fakes_answers import Desk
from tests.fast.fakes_api import MODEL, FakeServices
from tests.fast.fakes_http import client_of, served

PATHS = {"chat": "/v1/chat/completions", "text": "/v1/completions"}
TTL_S = 100


class CachedServices(FakeServices):
    """The routes over real answers, a clock, and a model that says its number once its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(ttl_s=TTL_S, stale_while_revalidate_s=20)
        self.desk.answers.flights._generate = self._generate
        self.num_made, self.gate = 0, asyncio.Event()
        self.gate.set()

    async def answer(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        return await self.desk.answers.whole(ask)

    async def stream(self, ask: Ask) -> AsyncIterator[Item]:
        self.asked.append(ask)
        async for item in self.desk.answers.stream(ask):
            yield item

    async def idle(self) -> None:
        """Nothing is made in the background any more."""
        await self.desk.until(lambda: self.desk.answers.flights.num_flying == 0)

    async def _generate(self, _request: Generate) -> AsyncGenerator[Item, None]:
        self.num_made += 1
        text = f"answer {self.num_made}"
        await self.gate.wait()
        yield Chunk(text, 1)
        yield finish()


@pytest.fixture
def services() -> CachedServices:
    return CachedServices()


@pytest.fixture(params=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "streamed")


@pytest.fixture(params=list(PATHS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def post(services: CachedServices, kind: str, stream: bool, control: str = "", **body: Any) -> httpx.Response:
    question: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]} if kind == "chat" else {"prompt": "Hi"}
    headers = {"Cache-Control": control} if control else {}
    async with client_of(services) as client:
        return await client.post(PATHS[kind], json={"model": MODEL, "stream": stream, **question, **body}, headers=headers)


def told(reply: httpx.Response) -> tuple[str, str | None]:
    assert reply.status_code == 200, reply.text
    assert len(reply.headers["x-cache-key"]) == 64
    return reply.headers["x-cache"], reply.headers.get("age")


async def test_every_reply_says_how_it_was_made(services: CachedServices, kind: str, stream: bool) -> None:
    first = await post(services, kind, stream)
    assert told(first) == ("miss", None)
    services.desk.time += 30.7
    second = await post(services, kind, stream)
    assert told(second) == ("hit", "30")
    assert told(await post(services, kind, stream, "no-cache")) == ("bypass", None)
    services.desk.time += TTL_S + 5
    stale = await post(services, kind, stream)
    assert told(stale) == ("stale", "105")
    await services.idle()
    assert told(await post(services, kind, stream)) == ("hit", "0")
    assert len({reply.headers["x-cache-key"] for reply in (first, second, stale)}) == 1
    assert services.num_made == 3


async def test_who_joins_is_told_so(services: CachedServices, kind: str, stream: bool) -> None:
    services.gate.clear()
    leader = asyncio.create_task(post(services, kind, stream))
    await services.desk.until(lambda: services.num_made == 1)
    joiner = asyncio.create_task(post(services, kind, not stream))
    await services.desk.until(lambda: services.desk.answers.flights.num_followers == 2)
    services.gate.set()
    assert [told(await caller) for caller in (leader, joiner)] == [("miss", None), ("join", None)]


async def test_only_if_cached_is_a_504_that_names_the_remedy_until_there_is_an_answer(
    services: CachedServices, kind: str, stream: bool
) -> None:
    for control, body in (("only-if-cached", {}), ("", {"cache": {"only-if-cached": True}})):
        refused = await post(services, kind, stream, control, **body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["type"]) == (504, "not_cached", "server_error")
        assert "send it without only-if-cached" in error["message"]
        assert refused.headers["x-should-retry"] == "false"
    assert services.num_made == 0
    await post(services, kind, stream)
    assert told(await post(services, kind, stream, "only-if-cached")) == ("hit", "0")


@pytest.mark.parametrize(
    ("control", "cache", "age_s", "outcome"),
    [
        ("max-age=30", {}, 30, "hit"),
        ("max-age=30", {}, 31, "miss"),
        ("", {"max-age": 30}, 31, "miss"),
        ("max-age=90", {"max-age": 30}, 31, "miss"),
        ("max-age=200", {}, TTL_S + 5, "miss"),
        ("max-age=200, max-stale=5", {}, TTL_S + 5, "stale"),
        ("max-stale", {}, TTL_S + 500, "stale"),
        ("", {"max-stale": True}, TTL_S + 500, "stale"),
        ("max-stale", {"max-stale": 499}, TTL_S + 500, "miss"),
        ("min-fresh=70", {}, 30, "hit"),
        ("min-fresh=70", {}, 31, "miss"),
        ("", {"min-fresh": 70}, 31, "miss"),
        ("no-store", {}, 30, "hit"),
        ("", {"no-cache": True}, 0, "bypass"),
    ],
)
async def test_what_a_request_asks_for_by_header_or_body(
    services: CachedServices, control: str, cache: dict[str, Any], age_s: float, outcome: str
) -> None:
    await post(services, "chat", stream=False)
    services.desk.time += age_s
    assert told(await post(services, "chat", stream=True, control=control, cache=cache))[0] == outcome


async def test_a_request_says_how_long_its_answer_lives_and_not_longer_than_it_may(services: CachedServices, kind: str) -> None:
    await post(services, kind, stream=False, cache={"ttl": 0.5})
    services.desk.time += 21
    assert told(await post(services, kind, stream=False)) == ("miss", None)
    refused = await post(services, kind, stream=True, cache={"ttl": TTL_S + 1})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "cache.ttl")
    assert "kept for 100 s here; send at most that" in error["message"]


async def test_of_several_answers_the_costliest_way_is_told_and_the_age_of_the_oldest(services: CachedServices, stream: bool) -> None:
    several: dict[str, Any] = {"n": 2, "temperature": 1.0}
    assert told(await post(services, "chat", stream, seed=7, temperature=1.0)) == ("miss", None)
    services.desk.time += 10
    assert told(await post(services, "chat", stream, seed=7, **several)) == ("miss", None)  # one stored, one made
    services.desk.time += 10
    assert told(await post(services, "chat", stream, seed=7, **several)) == ("hit", "20")
    services.desk.time += 85
    assert told(await post(services, "chat", stream, seed=7, **several)) == ("stale", "105")
    refused = await post(services, "chat", stream, "only-if-cached", seed=8, **several)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
    await services.idle()


async def test_openais_client_does_not_send_again_what_is_not_cached(services: CachedServices) -> None:
    async with served(services) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], extra_body={"cache": {"only-if-cached": True}}
            )
    assert (caught.value.status_code, caught.value.code, len(services.asked)) == (504, "not_cached", 1)


async def test_the_schema_documents_every_control_and_every_outcome(services: CachedServices) -> None:
    async with client_of(services) as client:
        schema = (await client.get("/openapi.json")).json()
    fields = schema["components"]["schemas"]["CacheField"]["properties"]
    assert set(fields) == {"no-cache", "no-store", "max-age", "max-stale", "min-fresh", "only-if-cached", "ttl", "sampled", "similar"}
    assert all(field["description"] for field in fields.values())
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    for word in ("no-cache", "no-store", "max-age", "max-stale", "min-fresh", "only-if-cached", "x-cache-key", "age", "stale", "bypass"):
        assert word in chat["description"], word
    assert set(chat["responses"]["504"]["content"]["application/json"]["examples"]) == {"late", "not_cached"}
