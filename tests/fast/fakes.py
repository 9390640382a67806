"""Fakes with verbs, and small makers of messages that tests compare whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from serve_app.errors import FrugalError
from serve_app.messages import Ask, CachePolicy, Chunk, Failed, Finish, Generate, Item, Message, Sampling, Usage
from serve_app.store.answers import StoredAnswer


def ask(text: str = "What is batching?", *, policy: CachePolicy | None = None, **generate: object) -> Ask:
    """A greedy chat question."""
    question = Generate("request-1", "tiny", Sampling(), (Message("user", text),))
    return Ask(replace(question, **generate), policy or CachePolicy())  # type: ignore[arg-type]


def finish(tokens: int = 2, **changes: object) -> Finish:
    """A clean ending that took half a second."""
    ending = Finish("stop", Usage(5, tokens), 0.5, 1.5, 0.1, 0.2, 0.7, 4, 0.001)
    return replace(ending, **changes)  # type: ignore[arg-type]


class FakeModel:
    """A model whose every item the test hands out: `say`, `finish`, `fail`; counts its generations and sees who gave up."""

    def __init__(self) -> None:
        self.requests: list[Generate] = []
        self.cancelled: list[Generate] = []
        self.promoted: list[str] = []
        self.stopped = asyncio.Event()
        self.started = asyncio.Event()
        self.num_taken = 0  # items that whoever listens has taken
        self._queues: list[asyncio.Queue[Item]] = []

    async def generate(self, request: Generate) -> AsyncGenerator[Item, None]:
        queue: asyncio.Queue[Item] = asyncio.Queue()
        self.requests.append(request)
        self._queues.append(queue)
        self.started.set()
        try:
            while True:
                item = await queue.get()
                yield item
                self.num_taken += 1
                if isinstance(item, Finish | Failed):
                    return
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request)
            self.stopped.set()
            raise

    async def fingerprint(self) -> str:
        return "f" * 64

    async def promote(self, request_id: str) -> None:
        self.promoted.append(request_id)

    def say(self, *words: str, to: int = -1) -> None:
        for word in words:
            self._queues[to].put_nowait(Chunk(word, 1))

    def send(self, chunk: Chunk, to: int = -1) -> None:
        self._queues[to].put_nowait(chunk)

    def finish(self, to: int = -1, **changes: object) -> None:
        self._queues[to].put_nowait(replace(finish(), **changes))  # type: ignore[arg-type]

    def fail(self, error: FrugalError, to: int = -1) -> None:
        self._queues[to].put_nowait(Failed(error))


class MemoryStore:
    """An answer store that a test can look into, break, and hold up: it reads while its `gate` is open."""

    def __init__(self) -> None:
        self.entries: dict[str, StoredAnswer] = {}
        self.broken = False
        self.num_reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, key: str) -> StoredAnswer | None:
        self.num_reads += 1
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.broken:
            raise OSError("disk on fire")
        return self.entries.get(key)

    async def put(self, answer: StoredAnswer) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("disk on fire")
        self.entries[answer.key] = answer
