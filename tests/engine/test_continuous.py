"""The engine over transformers' continuous batching where it is not as the others: preemption, shared pages, and a library that breaks."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
import pytest_asyncio
import torch
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from serve_app.errors import GenerationFailed, ModelLoadError, Unavailable
from serve_app.messages import Finish
from serve_app.metrics import Metrics
from serve_app.model.continuous import TransformersEngine
from serve_app.model.engine import Stream
from serve_app.model.loader import LoadedModel
from serve_app.model.paged import CPU_CHUNK_TOKENS, PAGE_TOKENS, PagedBatching, flash_attention
from serve_app.settings import ModelTuning
from tests.engine.engine_bench import Bench, Gate, assert_same, ending_of, generate, read, text_of, words
from tests.engine.test_engine import value
from tests.model import tiny

pytestmark = pytest.mark.usefixtures("quick_gc")

MODEL = copy.deepcopy(tiny.network())
BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4  # keys and values x layers x heads x dimension x fp32
PAGE_BYTES = PAGE_TOKENS * BYTES_PER_TOKEN

Start = Callable[..., TransformersEngine]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    engines: list[TransformersEngine] = []

    def make(num_pages: int = 64, metrics: Metrics | None = None, **tuning: Any) -> TransformersEngine:
        loaded = tiny.loaded(MODEL, ())
        batching = PagedBatching(loaded, num_pages * PAGE_BYTES)
        own = ModelTuning(**{"max_batch_size": 8, **tuning})
        engines.append(TransformersEngine(loaded, own, metrics or Metrics(), batching=batching))
        return engines[-1]

    yield make
    for engine in engines:
        await asyncio.to_thread(engine.close, 0)


@pytest_asyncio.fixture
async def gate() -> AsyncIterator[Gate]:
    made = Gate(MODEL)
    made.open.set()
    yield made
    made.open.set()
    made.remove()


def alone(prompt: str, max_tokens: int) -> tuple[list[str], list[float]]:
    return Bench(lambda loaded, tuning: pytest.fail("no engine"), MODEL).alone(prompt, max_tokens)


async def test_rows_that_outgrow_the_cache_are_computed_again_and_write_the_same(start: Start) -> None:
    prompts = [words(20, number) for number in range(5)]
    expected = [alone(prompt, 60) for prompt in prompts]
    metrics = Metrics()
    engine = start(num_pages=7, metrics=metrics)  # each needs three
    drawn = tiny.ask(words(20, 9), "drawn", temperature=1.0, seed=4, max_tokens=60)
    singly = text_of((await generate(engine, drawn))[0])
    *plain, again = await generate(engine, *(tiny.ask(prompt, str(n), max_tokens=60) for n, prompt in enumerate(prompts)), drawn)
    for items, one in zip(plain, expected, strict=True):
        assert_same(text_of(items), one)
    assert text_of(again) == singly
    assert value(metrics.snapshot("Model", "1"), "frugal_engine_prompt_tokens_total") > 7 * 20  # some more than once


async def test_who_runs_may_leave_while_others_are_computed_again_and_all_end(start: Start) -> None:
    """The library begins with nobody new between a preemption and a good ending, and would wait for ever where all who run leave."""
    engine, choose = start(num_pages=6, max_batch_size=12), random.Random(0)
    streams = [Stream(tiny.ask(words(40, number % 3), str(number), max_tokens=choose.randrange(20, 60))) for number in range(60)]
    assert engine.admit(streams) == streams

    async def follow(stream: Stream) -> Any:
        if choose.random() < 0.7:
            assert await anext(stream)
            stream.cancel()
        return (await read(stream))[-1]

    endings = await asyncio.gather(*map(follow, streams))
    assert {ending.reason for ending in endings} == {"length", "cancelled"}
    assert (engine.alive(), engine.account().running, engine._leaving) == (True, 0, set())


async def test_a_prompt_shares_whole_pages_with_one_before_it_and_says_so(start: Start) -> None:
    system = words(2 * PAGE_TOKENS + 3, 1)
    expected = alone(f"{system} w2 w3", 6)
    engine = start()
    await generate(engine, tiny.ask(f"{system} w1", max_tokens=4))
    items = (await generate(engine, tiny.ask(f"{system} w2 w3", max_tokens=6)))[0]
    assert_same(text_of(items), expected)
    assert ending_of(items).usage.cached_tokens == 2 * PAGE_TOKENS


async def test_prompts_longer_than_a_step_are_computed_in_parts_whose_time_is_theirs(start: Start, gate: Gate) -> None:
    engine = start()
    prompts = [words(110, number) for number in range(6)]  # 660 tokens, of which a step takes 512
    items = await generate(engine, *(tiny.ask(prompt, str(number), max_tokens=2) for number, prompt in enumerate(prompts)))
    await asyncio.to_thread(engine.close, 10)
    finishes = [ending_of(one) for one in items]
    account = engine.account()
    assert CPU_CHUNK_TOKENS < 6 * 110
    assert account.steps == gate.num_forwards
    assert sum(finish.compute_s for finish in finishes) <= account.used_s
    assert [finish.usage.cached_tokens for finish in finishes] == [0] * 6


async def test_a_library_that_breaks_fails_the_running_sends_the_others_elsewhere_and_is_seen(
    start: Start, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(max_batch_size=1)
    gate.open.clear()
    running, waiting = Stream(tiny.ask("w1", "running", max_tokens=20)), Stream(tiny.ask("w2", "waiting"))
    engine.admit([running, waiting])
    await asyncio.to_thread(gate.entered.wait, 30)
    gate.error = RuntimeError("out of memory, secret detail")
    gate.open.set()
    failed = ending_of(await read(running)).error
    assert isinstance(failed, GenerationFailed)
    assert "running" in failed.message
    assert "secret" not in failed.message
    assert isinstance(ending_of(await read(waiting)).error, Unavailable)
    await asyncio.to_thread(engine._thread.join, 30)
    assert not engine.alive()
    (late,) = engine.admit([Stream(tiny.ask("w3"))])
    assert isinstance(late, Unavailable)
    assert "secret detail" in caplog.text
    account = engine.account()
    assert (account.waiting, account.running) == (0, 0)


async def test_a_request_that_the_library_gives_up_harms_nobody_else(start: Start, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    expected = alone("w1 w2 w3", 20)
    engine = start()
    gate.num_forwards = 0
    gate.entered.clear()
    gate.open.clear()
    running = Stream(tiny.ask("w1 w2 w3", "running", max_tokens=20))
    bad = Stream(tiny.ask("w5", "bad", max_tokens=50))
    engine.admit([running, bad])
    await asyncio.to_thread(gate.entered.wait, 30)
    given_up = GenerationOutput("1", error="no page for it, secret detail", status=RequestStatus.FAILED)
    engine._batching._manager.output_router.deliver(given_up)  # as update_batch does
    gate.open.set()
    failed = ending_of(await read(bad)).error
    assert isinstance(failed, GenerationFailed)
    assert "secret" not in failed.message
    assert "secret detail" in caplog.text
    assert_same(text_of(await read(running)), expected)
    assert engine.alive()


async def test_one_who_leaves_before_the_library_has_begun_with_it_is_cancelled_once_it_has(start: Start, gate: Gate) -> None:
    engine = start()
    gate.open.clear()
    running, leaver = Stream(tiny.ask("w1", "running", max_tokens=3)), Stream(tiny.ask("w2", "leaver", max_tokens=100))
    engine.admit([running])
    await asyncio.to_thread(gate.entered.wait, 30)
    engine.admit([leaver])
    await asyncio.to_thread(handed_over, engine, 2)
    leaver.cancel()
    left = ending_of(await read(leaver))  # at once, though the step still runs
    assert (left.reason, left.compute_s, left.usage.completion_tokens) == ("cancelled", 0, 0)
    gate.open.set()
    assert ending_of(await read(running)).reason == "length"
    assert ending_of((await generate(engine, tiny.ask("w3", max_tokens=4)))[0]).reason == "length"
    assert gate.num_forwards <= 20 + 3 + 4  # of 100
    assert engine._leaving == set()


def handed_over(engine: TransformersEngine, num: int) -> None:
    """Wait until the library has so many requests."""
    deadline = time.monotonic() + 30
    while len(engine._running) < num:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3, "top_p": 0.9}, {"frequency_penalty": 0.5, "min_tokens": 9}])
async def test_what_a_recorded_step_computes_is_what_is_left_out_otherwise(start: Start, sampling: dict[str, Any]) -> None:
    engine = start()
    request = tiny.ask("w1 w2 w3", max_tokens=20, **sampling)
    left_out = (await generate(engine, request))[0]
    engine._batching.sampling.recorded = True
    assert text_of((await generate(engine, request))[0]) == text_of(left_out)


async def test_the_model_attends_as_before_once_the_engine_is_closed(start: Start) -> None:
    before = MODEL.config._attn_implementation
    engine = start()
    assert isinstance(ending_of((await generate(engine, tiny.ask("w1")))[0]), Finish)
    await asyncio.to_thread(engine.close, 0)
    assert MODEL.config._attn_implementation == before
    assert not engine._batching._manager.is_running()
    assert flash_attention("cpu", torch.bfloat16) is None
    assert flash_attention("cuda:0", torch.float32) is None


def test_a_budget_that_holds_no_whole_sequence_or_that_the_machine_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny.loaded(MODEL)
    with pytest.raises(ModelLoadError, match=r"model\.kv_cache_mb 0 holds no sequence: one of 128 tokens"):
        PagedBatching(loaded, 3 * PAGE_BYTES)
    with pytest.raises(ModelLoadError, match=r"model\.kv_cache_mb is .* are free on cpu; lower model\.kv_cache_mb"):
        PagedBatching(loaded, 10 * psutil.virtual_memory().total)


def test_a_model_that_the_library_cannot_run_is_refused_with_the_engines_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(**changes: Any) -> LoadedModel:
        model = copy.deepcopy(tiny.network())
        for name, changed in changes.items():
            setattr(model.config, name, changed)
        return tiny.loaded(model)

    with pytest.raises(ModelLoadError, match=r"Invalid layer type: linear_attention; set model\.engine: slots or static"):
        PagedBatching(other(layer_types=["full_attention", "linear_attention"]), 1_000_000)
    loaded = other()
    monkeypatch.setattr(type(loaded.model), "_supports_attention_backend", False)
    with pytest.raises(ModelLoadError, match=r"no continuous batching for LlamaForCausalLM; set model\.engine: slots or static"):
        PagedBatching(loaded, 1_000_000)
