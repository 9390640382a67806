"""Answers over a fake model, a fake store and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.cache.answers import Answers
from serve_app.cache.key import answer_key
from serve_app.messages import Answer, Ask
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings
from tests.fast.fakes import FakeModel, MemoryStore, ask

KEY = answer_key(ask(), "f" * 64)


class Desk:
    """Answers over a fake model, a fake store and a clock."""

    def __init__(self, **settings: object) -> None:
        self.model, self.store, self.time, self.metrics = FakeModel(), MemoryStore(), 1_000_000.0, Metrics()
        self.answers = Answers(
            self.model.generate,
            self.model.fingerprint,
            self.model.promote,
            self.store,
            CacheSettings.load(settings),
            self.metrics,
            lambda: self.time,
        )

    def call(self, question: Ask) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.answers.whole(question))

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never came about")

    def metric(self, name: str, **labels: str) -> float:
        """A counter's value."""
        families = dict(self.metrics.snapshot("AnswerCache", "one").families)
        return sum(sample.value for sample in families.get(name, ()) if dict(sample.labels) == labels)

    def turns(self) -> Callable[[], int]:
        """From now on counts the turns of the event loop."""
        loop, num_turns = asyncio.get_running_loop(), 0

        def turn() -> None:
            nonlocal num_turns
            num_turns += 1
            loop.call_soon(turn)

        loop.call_soon(turn)
        return lambda: num_turns

    async def asked(self, question: Ask, *words: str) -> Answer:
        """Ask, and have the model say these words."""
        caller = self.call(question)
        num = len(self.model.requests)
        await self.until(lambda: len(self.model.requests) > num)
        self.model.say(*(words or ("two ", "words")))
        self.model.finish()
        return await caller
