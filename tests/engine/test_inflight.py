"""The in-flight engine on a tiny random model: rows join and leave at any step, and nobody's text depends on who else runs."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import torch
from torch import Tensor
from transformers import GenerationConfig

from serve_app.errors import Cancelled, ContextLengthExceeded, GenerationFailed, Overloaded, Unavailable
from serve_app.messages import Failed, Finish, Generate
from serve_app.metrics import Metrics
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.runner import Runner
from serve_app.model.scheduler import Step
from serve_app.settings import ModelTuning
from tests.engine.engine_bench import Items, ending_of, text_of, words
from tests.engine.test_engine import read
from tests.model import tiny

Start = Callable[..., SlotsEngine]
SLOT_TOKENS = 128
REFERENCE = copy.deepcopy(tiny.network())  # which no engine has in hand


class GatedRunner(Runner):
    """The real runner, stopped before every step until `gate` opens and after step number `hold_at` until `released`; breaks on a token."""

    def __init__(self, num_slots: int = 4, hold_at: int | None = None, breaks_on: int | None = None) -> None:
        super().__init__(copy.deepcopy(tiny.network()), num_slots, SLOT_TOKENS)  # an engine changes what its model attends with
        self.entered, self.gate, self.held, self.released = (threading.Event() for _ in range(4))
        self.gate.set()
        self.steps: list[Step] = []
        self._hold_at, self._breaks_on = hold_at, breaks_on

    def run(self, step: Step) -> Tensor:
        self.entered.set()
        assert self.gate.wait(30)
        self.steps.append(step)
        if any(self._breaks_on in chunk.sequence.prompt_ids for chunk in step.chunks):
            raise RuntimeError("out of memory, secret detail")
        logits = super().run(step)
        if len(self.steps) == self._hold_at:
            self.held.set()
            assert self.released.wait(30)
        return logits


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    engines: list[SlotsEngine] = []

    def make(runner: GatedRunner | None = None, eos_ids: tuple[int, ...] = (), num_slots: int = 4, **tuning: Any) -> SlotsEngine:
        own = ModelTuning(**{"max_batch_size": 8, **tuning})
        engine = SlotsEngine(tiny.loaded(eos_ids=eos_ids), own, Metrics(), runner=runner or GatedRunner(num_slots))
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await asyncio.to_thread(engine.close, 0)
        engine._scheduler.check()
        assert engine._scheduler.num_free == engine._scheduler._slots.num_slots
        assert engine._rows == {}


async def generate(engine: SlotsEngine, *requests: Generate) -> list[Items]:
    streams = [Stream(request) for request in requests]
    assert engine.admit(streams) == streams
    return await asyncio.gather(*map(read, streams))


def alone(prompt: str, max_tokens: int) -> str:
    """What plain `generate` writes."""
    ids = torch.tensor([tiny.tokenizer().encode(prompt)])
    config = GenerationConfig(max_new_tokens=max_tokens, do_sample=False, pad_token_id=tiny.EOS, eos_token_id=None)
    out = REFERENCE.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    text: str = tiny.tokenizer().decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text


async def test_twenty_rows_through_four_slots_write_what_generate_writes_alone(start: Start) -> None:
    prompts = [(words(3 + number * 4, number), 1 + number * 2 % 23) for number in range(20)]
    together = await generate(start(), *(tiny.ask(prompt, str(number), max_tokens=most) for number, (prompt, most) in enumerate(prompts)))
    assert [text_of(items) for items in together] == [alone(prompt, most) for prompt, most in prompts]
    assert [ending_of(items).usage.completion_tokens for items in together] == [most for _, most in prompts]


async def test_a_drawn_row_has_the_same_text_alone_and_in_any_company(start: Start) -> None:
    engine = start()
    requests = [
        tiny.ask("w4", "seeded", temperature=0.8, seed=5, top_p=0.95),
        tiny.ask("w5 w6 w7", "penalised", repetition_penalty=1.3, frequency_penalty=0.5, max_tokens=20),
        tiny.ask("w11 w12", "short", max_tokens=3, min_tokens=2),
    ]
    singly = [(await generate(engine, request))[0] for request in requests]
    together = await generate(engine, *requests)
    assert [text_of(items) for items in together] == [text_of(items) for items in singly]
    assert [ending_of(items).usage.completion_tokens for items in together] == [8, 20, 3]


async def test_no_companys_whims_change_a_rows_tokens(start: Start) -> None:
    engine, dice = start(num_slots=6), random.Random(11)

    def whims() -> dict[str, Any]:
        return {
            "temperature": dice.choice([0.0, 0.7, 1.4]),
            "seed": dice.randrange(1000),
            "top_p": dice.choice([1.0, 0.9, 0.5]),
            "top_k": dice.choice([0, 5, 40]),
            "min_p": dice.choice([0.0, 0.05]),
            "repetition_penalty": dice.choice([1.0, 1.4]),
            "presence_penalty": dice.choice([0.0, 0.8]),
            "frequency_penalty": dice.choice([0.0, 0.6]),
            "logit_bias": dice.choice([(), ((3, 4.0), (40, -100.0))]),
            "logprobs": dice.choice([None, 0, 3]),
            "max_tokens": dice.randrange(1, 25),
            "min_tokens": dice.choice([0, 1]),
        }

    requests = [tiny.ask(words(1 + dice.randrange(20), number), str(number), **whims()) for number in range(40)]
    singly = [(await generate(engine, request))[0] for request in requests]
    for _ in range(3):
        company = dice.sample(range(40), 12)
        together = await generate(engine, *(requests[number] for number in company))
        assert [text_of(items) for items in together] == [text_of(singly[number]) for number in company]


async def test_an_end_of_sequence_and_a_stop_string_end_a_row(start: Start) -> None:
    plain = alone("w1 w2 w3", 12).split()
    eos = tiny.tokenizer().encode(plain[4])[0]
    ended, ignoring = await generate(
        start(eos_ids=(eos,)), tiny.ask("w1 w2 w3", max_tokens=12), tiny.ask("w1 w2 w3", "b", max_tokens=12, ignore_eos=True)
    )
    assert (text_of(ended).split(), ending_of(ended).reason) == (plain[: plain.index(plain[4])], "stop")
    assert ending_of(ignoring).usage.completion_tokens == 12
    stopped = (await generate(start(), tiny.ask("w1 w2 w3", max_tokens=12, stop=(f"{plain[4]} {plain[5]}",))))[0]
    assert (text_of(stopped).split(), ending_of(stopped).reason) == (plain[:4], "stop")


async def test_a_request_joins_while_another_one_runs_and_may_end_before_it(start: Start) -> None:
    runner = GatedRunner(hold_at=5)
    engine = start(runner)
    long = Stream(tiny.ask("w1 w2 w3", "long", max_tokens=60))
    engine.admit([long])
    await asyncio.to_thread(runner.held.wait, 30)
    short = Stream(tiny.ask("w9", "short", max_tokens=4))
    engine.admit([short])
    runner.released.set()
    assert ending_of(await read(short)).reason == "length"
    assert not long.ended
    assert text_of(await read(long)) == alone("w1 w2 w3", 60)


async def test_a_shared_prefix_is_copied_and_told(start: Start) -> None:
    engine = start()
    system = words(40, 1)
    await generate(engine, tiny.ask(f"{system} w1", max_tokens=4))
    items = (await generate(engine, tiny.ask(f"{system} w2 w3", max_tokens=6)))[0]
    assert text_of(items) == alone(f"{system} w2 w3", 6)
    assert ending_of(items).usage.cached_tokens == 40


async def test_a_cancelled_row_frees_its_slot_within_one_step(start: Start) -> None:
    runner = GatedRunner(num_slots=1, hold_at=5)
    engine = start(runner)
    first, second = Stream(tiny.ask("w1", "first", max_tokens=100)), Stream(tiny.ask("w2", "second", max_tokens=3))
    engine.admit([first, second])
    await asyncio.to_thread(runner.held.wait, 30)
    first.cancel()
    runner.released.set()
    assert ending_of(await read(first)).reason == "cancelled"
    assert text_of(await read(second)) == alone("w2", 3)
    assert [len(step.decodes) + len(step.chunks) for step in runner.steps] == [1] * (5 + 3)


async def test_a_request_cancelled_while_it_waits_never_runs(start: Start) -> None:
    runner = GatedRunner(num_slots=1)
    engine = start(runner)
    runner.gate.clear()
    first, second = Stream(tiny.ask("w1", "first", max_tokens=2)), Stream(tiny.ask("w2", "second", max_tokens=2))
    engine.admit([first, second])
    second.cancel()
    runner.gate.set()
    assert ending_of(await read(second)).compute_s == 0
    await read(first)
    assert {chunk.sequence.prompt_ids[0] for step in runner.steps for chunk in step.chunks} == {tiny.tokenizer().encode("w1")[0]}


async def test_interactive_requests_go_before_batch_ones(start: Start) -> None:
    runner = GatedRunner(num_slots=1)
    engine = start(runner)
    runner.gate.clear()
    order = [("running", "interactive"), ("later", "batch"), ("sooner", "interactive"), ("promoted", "batch")]
    streams = [Stream(tiny.ask(f"w{number}", name, priority, max_tokens=2)) for number, (name, priority) in enumerate(order)]  # type: ignore[arg-type]
    for stream in streams:
        engine.admit([stream])
        await asyncio.to_thread(runner.entered.wait, 30)
    engine.promote("promoted")
    runner.gate.set()
    await asyncio.gather(*map(read, streams))
    ran = [tiny.tokenizer().decode(chunk.sequence.prompt_ids) for step in runner.steps for chunk in step.chunks]
    assert ran == ["w0", "w2", "w3", "w1"]


async def test_a_request_that_breaks_the_model_harms_nobody_else(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    runner = GatedRunner(breaks_on=tiny.tokenizer().encode("w13")[0], hold_at=3)
    engine = start(runner)
    running = Stream(tiny.ask("w1 w2 w3", "running", max_tokens=20))
    engine.admit([running])
    await asyncio.to_thread(runner.held.wait, 30)
    bad = Stream(tiny.ask("w5 w13", "bad"))
    engine.admit([bad])
    runner.released.set()
    failed = ending_of(await read(bad))
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, GenerationFailed)
    assert "secret" not in failed.error.message
    assert "bad" in failed.error.message
    assert text_of(await read(running)) == alone("w1 w2 w3", 20)
    assert "secret detail" in caplog.text


async def test_refusals_name_what_is_wrong_and_leave_their_neighbours_alone(start: Start) -> None:
    runner = GatedRunner(num_slots=1)
    engine = start(runner, max_waiting=1)
    runner.gate.clear()
    first = Stream(tiny.ask("w1", max_tokens=2))
    engine.admit([first])
    await asyncio.to_thread(runner.entered.wait, 30)
    too_long, waits, too_many = (Stream(tiny.ask(text, max_tokens=2)) for text in (words(200, 1), "w2", "w3"))
    results = engine.admit([too_long, waits, too_many])
    assert [type(result) for result in results] == [ContextLengthExceeded, Stream, Overloaded]
    runner.gate.set()
    assert [ending_of(await read(stream)).reason for stream in (first, waits)] == ["length", "length"]


async def test_the_shares_add_up_to_the_time_used(start: Start) -> None:
    engine = start()
    results = await generate(engine, *(tiny.ask(words(5 + number, number), str(number), max_tokens=3 + number) for number in range(9)))
    account = engine.account()
    spent = sum(ending_of(items).compute_s for items in results)
    assert spent == pytest.approx(account.used_s - account.lost_s, rel=0.2)
    assert (account.lost_s, account.wasted_rows, account.running, account.waiting) == (0, 0, 0, 0)


async def test_close_lets_running_rows_finish_and_turns_the_others_away(start: Start) -> None:
    runner = GatedRunner(num_slots=1, hold_at=2)
    engine = start(runner)
    running, waiting = Stream(tiny.ask("w1", "running", max_tokens=9)), Stream(tiny.ask("w2", "waiting"))
    engine.admit([running, waiting])
    await asyncio.to_thread(runner.held.wait, 30)
    closing = asyncio.create_task(asyncio.to_thread(engine.close, 10))
    assert isinstance(ending_of(await read(waiting)), Failed)
    runner.released.set()
    assert ending_of(await read(running)).reason == "length"
    await closing
    (late,) = engine.admit([Stream(tiny.ask("w3"))])
    assert isinstance(late, Unavailable)
    assert not engine.alive()


async def test_close_gives_up_on_rows_that_outlast_the_drain_time(start: Start) -> None:
    runner = GatedRunner(hold_at=2)
    engine = start(runner)
    running = Stream(tiny.ask("w1", "running", max_tokens=100))
    engine.admit([running])
    await asyncio.to_thread(runner.held.wait, 30)
    closing = asyncio.create_task(asyncio.to_thread(engine.close, 0))
    await asyncio.to_thread(engine._abandoned.wait, 10)
    runner.released.set()
    failed = ending_of(await read(running))
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Cancelled)
    await closing


async def test_a_thousand_requests_of_which_many_leave_all_end_once_and_leak_no_slot(start: Start) -> None:
    engine, choose = start(max_waiting=2000), random.Random(3)
    requests = [tiny.ask(words(choose.randrange(1, 30), number), str(number), max_tokens=choose.randrange(1, 9)) for number in range(1000)]
    streams = [Stream(request) for request in requests]
    assert engine.admit(streams) == streams

    async def follow(stream: Stream) -> Items:
        for _ in range(choose.randrange(4)):
            await asyncio.sleep(0)
        if choose.random() < 0.4:
            stream.cancel()
        return await read(stream)

    endings = [ending_of(items) for items in await asyncio.gather(*map(follow, streams))]
    assert all(isinstance(ending, Finish) for ending in endings)
    assert {ending.reason for ending in endings} == {"length", "cancelled"}
