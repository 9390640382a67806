"""200 callers of one new key at once, over HTTP, half of them streaming: one generation; who leaves harms nobody."""

from __future__ import annotations

import asyncio
import json

import httpx

from tests.ray.program import Program, question

TEXT = "Explain in detail why a shared answer costs less than two hundred separate ones."


async def test_200_callers_of_one_new_key_share_one_generation_and_the_first_one_leaves(program: Program) -> None:
    program.wait_for(lambda: program.articles(state="done") and not program.articles(state="pending"), 300)  # nobody else generates
    before = program.metric("frugal_engine_requests_total")
    limits = httpx.Limits(max_connections=250)
    async with httpx.AsyncClient(base_url=program.url, timeout=120, limits=limits, trust_env=False) as client:
        refused = await client.post("/v1/chat/completions", json=question(TEXT, max_tokens=96), headers={"Cache-Control": "only-if-cached"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
        first = asyncio.create_task(streamed(client))
        await until_live(client)
        others = [asyncio.create_task(streamed(client) if number % 2 else whole(client)) for number in range(199)]
        await until_joined(client)
        first.cancel()
        texts = await asyncio.gather(*others)
    assert len(set(texts)) == 1
    assert texts[0]
    assert program.metric("frugal_engine_requests_total") - before == 1
    stored = program.ask(TEXT, max_tokens=96, cache={"only-if-cached": True})
    assert (stored.headers["x-cache"], len(stored.headers["x-cache-key"]), int(stored.headers["age"]) < 120) == ("hit", 64, True)


async def whole(client: httpx.AsyncClient) -> str:
    reply = await client.post("/v1/chat/completions", json=question(TEXT, max_tokens=96))
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


async def streamed(client: httpx.AsyncClient) -> str:
    text, ended = [], False
    async with client.stream("POST", "/v1/chat/completions", json=question(TEXT, max_tokens=96, stream=True)) as reply:
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                text += [choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"]]
    assert ended
    return "".join(text)


async def until_live(client: httpx.AsyncClient) -> None:
    """Until the first caller's generation is running."""
    while "frugal_cache_in_flight" not in (text := (await client.get("/metrics")).text) or in_flight(text) < 1:
        pass


async def until_joined(client: httpx.AsyncClient) -> None:
    """Until callers have been sent to it: the health route answers after them, because each waits for its turn on the same loop."""
    for _ in range(3):
        assert (await client.get("/health")).status_code == 200


def in_flight(text: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith("frugal_cache_in_flight{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
