"""Valkey goes and comes back under load, or hangs: no request fails, no answer is wrong, and what was stored is found again."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from multiprocessing.connection import Connection

import pytest

from serve_app.cache.shard import AnswerShard
from serve_app.messages import Chunk, Generate, Item, Selection
from serve_app.settings import AppSettings
from serve_app.store.answers import StoredAnswer
from serve_app.store.valkey import ValkeyAnswers
from tests.contract_store.answers import noise, stored
from tests.contract_store.killed import kill_while_storing
from tests.fast.fakes import ask, finish
from tests.valkey.server import ValkeyServer

NUM_QUESTIONS, NUM_CLIENTS = 60, 16
KILLS = 15


class Load:
    """Clients that ask one question after the other, of a model that repeats the question; `answered` counts by outcome."""

    def __init__(self, app: AppSettings) -> None:
        self.shard = AnswerShard(app, self._generate, self._fingerprint, self._promote)
        self.shard.tune({"memory_bytes": 0, "store_timeout_s": 0.3})
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._clients = [asyncio.create_task(self._client(number)) for number in range(NUM_CLIENTS)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                for client in self._clients:
                    assert not client.done(), client.exception()
                await asyncio.sleep(0.005)

    async def more(self, outcome: str, num: int = 50) -> None:
        """Until so many more had this outcome."""
        goal = self.answered[outcome] + num
        await self.until(lambda: self.answered[outcome] >= goal)

    async def end(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self.shard.stop()

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        while True:
            text = f"question {chance.randrange(NUM_QUESTIONS)}"
            answer = await self.shard.answers.whole(ask(text))
            self.answered[answer.opening.outcome] += 1
            if answer.text != f"answer to {text}":
                self.wrong.append(answer.text)

    async def _generate(self, request: Generate) -> AsyncGenerator[Item, None]:
        await asyncio.sleep(0)
        yield Chunk(f"answer to {request.messages[-1].content}", 3)
        yield finish()

    async def _fingerprint(self) -> str:
        return "f" * 64

    async def _promote(self, _request_id: str) -> None:
        raise AssertionError("nobody asks at low priority")


@pytest.fixture
async def load(server: ValkeyServer, store: ValkeyAnswers, tmp_path: pathlib.Path) -> AsyncIterator[Load]:
    load = Load(AppSettings(data_dir=str(tmp_path), answers_url=server.url))
    yield load
    await load.end()


async def test_killed_and_started_again_under_load_it_fails_no_request(server: ValkeyServer, store: ValkeyAnswers, load: Load) -> None:
    for _ in range(3):
        await load.more("hit")
        await asyncio.to_thread(server.kill)
        await load.more("miss")
        await asyncio.to_thread(server.start)
        await load.more("hit", 200)
    assert load.wrong == []
    assert store.totals().entries == NUM_QUESTIONS


async def test_a_server_that_hangs_under_load_fails_no_request(server: ValkeyServer, load: Load) -> None:
    await load.more("hit", 200)
    with server.frozen():
        await load.more("miss", 100)
    await load.more("hit", 200)
    assert load.wrong == []


def test_without_a_server_a_store_can_be_made_and_every_call_says_so() -> None:
    store = ValkeyAnswers("valkey://127.0.0.1:1/0", 1.0)
    with pytest.raises(Exception, match="refused"):
        store.get(stored().key)
    store.close()


def long_answer(number: int) -> StoredAnswer:
    """One that takes the server many reads."""
    return stored(number, text=f"{number} {noise(200_000)}", created_at=float(number))


def put_for_ever(url: str, first: int, said: Connection) -> None:
    """In a child: store answers one after the other, and say each that is stored."""
    store = ValkeyAnswers(url, 5.0)
    for number in itertools.count(first):
        store.put(long_answer(number))
        said.send(number)


def test_a_process_killed_while_it_stores_leaves_only_whole_answers(server: ValkeyServer, store: ValkeyAnswers) -> None:
    acknowledged = kill_while_storing(put_for_ever, server.url, KILLS, most=4)
    numbers = sorted(int(entry.key, 16) for entry in store.page(Selection(), 1000))
    assert numbers == list(range(len(numbers)))
    assert acknowledged < len(numbers) <= acknowledged + 2, "what was said to be stored is there"
    assert all(store.get(stored(number).key) == long_answer(number) for number in numbers)


def test_a_server_killed_while_it_stores_comes_back_with_whole_answers(server: ValkeyServer, store: ValkeyAnswers) -> None:
    for first in range(0, 25, 5):
        for number in range(first, first + 5):
            store.put(long_answer(number))
        server.kill()
        server.start()
        there = [answer for number in range(first + 5) if (answer := store.get(stored(number).key)) is not None]
        assert there == [long_answer(number) for number in range(len(there))]
        assert store.totals().entries == len(there)
