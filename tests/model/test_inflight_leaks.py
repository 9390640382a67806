"""A thousand requests of which many leave and many steps break: one ending each, and no slot, row, task or thread is left over."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from random import Random

import pytest
from torch import Tensor

from serve_app.errors import Cancelled, GenerationFailed
from serve_app.messages import Failed, Generate
from serve_app.metrics import Metrics
from serve_app.model.engine import Ending, Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.runner import Runner
from serve_app.model.scheduler import Step
from serve_app.settings import ModelTuning
from tests.engine.engine_bench import ending_of
from tests.engine.test_engine import value
from tests.model import tiny

NUM_SLOTS = 4


class BreakingRunner(Runner):
    """The real runner; one step of eight breaks, before or after it has written. Notes after which step each request held a slot last."""

    def __init__(self, seed: int) -> None:
        super().__init__(tiny.network(), NUM_SLOTS, slot_tokens=128)
        self.engine: SlotsEngine
        self.held_at: dict[str, int] = {}
        self.num_broken = 0
        self._random = Random(seed)

    def run(self, step: Step) -> Tensor:
        num_steps = self.engine.account().steps
        for sequence in self.engine._scheduler.running:
            self.held_at[self.engine._rows[sequence].stream.request.request_id] = num_steps
        luck = self._random.random()
        logits = super().run(step) if luck > 1 / 16 else None
        if logits is None or luck > 15 / 16:
            self.num_broken += 1
            raise RuntimeError("the model broke")
        return logits


@pytest.mark.parametrize("seed", range(2))
async def test_a_thousand_cancels_and_failures_leak_nothing(seed: int) -> None:
    before = set(threading.enumerate())
    random, metrics, runner = Random(seed), Metrics(), BreakingRunner(seed)
    engine = runner.engine = SlotsEngine(
        tiny.loaded(eos_ids=()), ModelTuning(max_batch_size=NUM_SLOTS, max_waiting=2000), metrics, runner=runner, chunk_tokens=16
    )
    left_at: dict[str, int] = {}  # the last step that may hold a slot for it

    async def follow(stream: Stream) -> Ending:
        if random.random() < 0.4:
            for _ in range(random.randrange(200)):
                await asyncio.sleep(0)
            stream.cancel()
            left_at[stream.request.request_id] = engine.account().steps
        return ending_of([item async for item in stream])  # type: ignore[no-any-return]

    streams = [Stream(a_request(random, number)) for number in range(1000)]
    tasks = [asyncio.create_task(follow(stream)) for stream in streams]
    for start in range(0, 1000, 50):
        group = streams[start : start + 50]
        assert await asyncio.to_thread(engine.admit, group) == group
    done = await asyncio.gather(*tasks[:950])
    await asyncio.to_thread(engine.close, 0)  # with whatever of the last ones is still there
    endings = Counter(kind(ending) for ending in done + await asyncio.gather(*tasks[950:]))

    engine._scheduler.check()
    assert (engine._scheduler.num_free, engine._rows, engine.alive()) == (NUM_SLOTS, {}, False)
    assert not any(stream.end(Failed(Cancelled("twice"))) for stream in streams)
    assert value(metrics.snapshot("Model", "r1"), "frugal_engine_requests_total") == sum(endings.values()) == 1000
    assert min(endings["length"], endings["cancelled"], endings["failed"]) > 50
    assert runner.num_broken > 50
    assert all(runner.held_at.get(request_id, 0) <= num_steps for request_id, num_steps in left_at.items())
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio")]


def a_request(random: Random, number: int) -> Generate:
    prompt = " ".join(random.choices(tiny.WORDS[2:], k=random.randint(1, 40)))
    return tiny.ask(prompt, str(number), random.choice(["batch", "interactive"]), max_tokens=random.randint(1, 12))


def kind(ending: Ending) -> str:
    if not isinstance(ending, Failed):
        return ending.reason
    return {GenerationFailed: "failed", Cancelled: "closed"}[type(ending.error)]
