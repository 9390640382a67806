"""Looks into the store: a crowd reads it once, and nobody misses what the first of them has stored meanwhile."""

from __future__ import annotations

import asyncio

from serve_app.cache.looks import Looks
from serve_app.messages import Finish, Usage
from serve_app.metrics import Metrics
from serve_app.store.answers import StoredAnswer

FINISH = Finish("stop", Usage(10, 4), 0.1, 0.1, 0.0, 0.0, 0.1, 1, 0.0)
ANSWER = StoredAnswer("key", "model", "", "", "text", FINISH, 5.0)


class Store:
    """Answers once it is let go; counts who looks."""

    def __init__(self) -> None:
        self.kept: dict[str, StoredAnswer] = {}
        self.num_looks = 0
        self.may_answer = asyncio.Event()

    async def get(self, key: str) -> StoredAnswer | None:
        self.num_looks += 1
        held = self.kept.get(key)
        await self.may_answer.wait()
        return held

    async def put(self, answer: StoredAnswer) -> None:
        self.kept[answer.key] = answer


async def test_a_crowd_looks_once() -> None:
    store = Store()
    looks = Looks(store, Metrics())
    crowd = [asyncio.create_task(looks.get("key")) for _ in range(20)]
    await asyncio.sleep(0)
    store.may_answer.set()
    assert await asyncio.gather(*crowd) == [None] * 20
    assert store.num_looks == 1


async def test_who_looked_with_the_first_finds_what_that_one_stored_before_its_turn() -> None:
    store = Store()
    looks = Looks(store, Metrics())

    async def first() -> StoredAnswer | None:
        held = await looks.get("key")
        await looks.put(ANSWER)
        return held

    tasks = [asyncio.create_task(first()), asyncio.create_task(looks.get("key")), asyncio.create_task(looks.get("other"))]
    await asyncio.sleep(0)
    store.may_answer.set()
    assert await asyncio.gather(*tasks) == [None, ANSWER, None]
    assert store.num_looks == 3
    assert (looks._callers, looks._put_since) == ({}, set()), "nothing is remembered of those who are gone"
