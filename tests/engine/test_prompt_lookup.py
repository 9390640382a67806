"""Guessed tokens in the in-flight engine: the same answers in fewer steps, whatever a row asks for."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from serve_app.messages import Chunk, Generate
from serve_app.metrics import Metrics
from serve_app.model.along import Along
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.settings import ModelTuning
from tests.engine.engine_bench import Items, ending_of, text_of, words
from tests.engine.test_engine import read
from tests.engine.test_inflight import GatedRunner
from tests.model import tiny

FEW = tuple((token, 9.0) for token in (3, 4, 5, 6))  # with this bias a row says little but these words, and so again and again


async def answers(num_guesses: int, *requests: Generate, eos_ids: tuple[int, ...] = ()) -> tuple[list[Items], GatedRunner, Metrics]:
    runner, metrics = GatedRunner(), Metrics()
    engine = SlotsEngine(tiny.loaded(eos_ids=eos_ids), ModelTuning(prompt_lookup_tokens=num_guesses), metrics, runner=runner)
    streams = [Stream(request) for request in requests]
    try:
        assert engine.admit(streams) == streams
        return await asyncio.gather(*map(read, streams)), runner, metrics
    finally:
        await asyncio.to_thread(engine.close, 0)
        engine._scheduler.check()


def told(items: Items) -> tuple[Any, ...]:
    """All that a caller sees and that does not depend on time."""
    ending = ending_of(items)
    logprobs = [(entry.chosen.token, entry.offset) for item in items if isinstance(item, Chunk) for entry in item.logprobs]
    return text_of(items), ending.reason, ending.usage.completion_tokens, logprobs


def guessed(metrics: Metrics) -> dict[str, float]:
    samples = dict(metrics.snapshot("Model", "one").families)["frugal_engine_guessed_tokens_total"]
    return {dict(sample.labels)["outcome"]: sample.value for sample in samples}


async def test_every_row_says_what_it_says_without_guesses_in_fewer_steps() -> None:
    dice = random.Random(3)
    requests = [
        tiny.ask(
            words(1 + dice.randrange(12), number),
            str(number),
            logit_bias=FEW,
            temperature=dice.choice([0.0, 0.0, 0.7, 1.3]),
            seed=number,
            top_p=dice.choice([1.0, 0.8]),
            repetition_penalty=dice.choice([1.0, 1.2]),
            frequency_penalty=dice.choice([0.0, 0.4]),
            logprobs=dice.choice([None, 2]),
            stop=dice.choice([(), ("w2 w3 w4",)]),
            max_tokens=dice.randrange(1, 50),
            min_tokens=dice.choice([0, 1]),
        )
        for number in range(30)
    ]
    plain, slow, _ = await answers(0, *requests)
    along, quick, metrics = await answers(6, *requests)
    assert list(map(told, along)) == list(map(told, plain))
    assert len(quick.steps) < 0.95 * len(slow.steps)  # random weights repeat themselves less than a summary does its article
    assert all(number > 20 for number in guessed(metrics).values())


async def test_an_end_of_sequence_among_the_guesses_ends_the_row() -> None:
    eos_ids = (6,)
    requests = [tiny.ask(f"w{number} w3 w4 w1 w3 w4", str(number), logit_bias=FEW, max_tokens=1 + number * 3) for number in range(12)]
    plain, _, _ = await answers(0, *requests, eos_ids=eos_ids)
    along, _, _ = await answers(6, *requests, eos_ids=eos_ids)
    assert list(map(told, along)) == list(map(told, plain))
    assert {ending_of(items).reason for items in along} == {"stop", "length"}


async def test_one_who_leaves_while_guesses_are_checked_gets_its_ending_and_frees_its_slot() -> None:
    runner = GatedRunner(hold_at=9)
    engine = SlotsEngine(tiny.loaded(eos_ids=()), ModelTuning(), Metrics(), runner=runner)
    stream = Stream(tiny.ask("w1", logit_bias=FEW, max_tokens=60))
    engine.admit([stream])
    assert await asyncio.to_thread(runner.held.wait, 30)
    assert runner.steps[-1].guesses
    stream.cancel()
    runner.released.set()
    assert ending_of(await read(stream)).reason == "cancelled"
    await asyncio.to_thread(engine.close, 5)
    assert engine._scheduler.num_free == runner.num_slots


async def test_a_choice_that_breaks_behind_a_guess_costs_no_token(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = tiny.ask("w1", logit_bias=FEW, max_tokens=40)
    (plain,), _, _ = await answers(0, request)
    broken: list[int] = []
    whole = Along._choose

    def break_once(self: Along, going: Any, depth: int) -> Any:
        if depth and not broken:
            broken.append(depth)
            raise RuntimeError("no such token")
        return whole(self, going, depth)

    monkeypatch.setattr(Along, "_choose", break_once)
    (along,), _, _ = await answers(6, request)
    assert broken
    assert told(along) == told(plain)
    assert "cannot choose behind a guess" in caplog.text
