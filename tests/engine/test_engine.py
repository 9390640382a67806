"""The engine on a tiny random model: every stream ends exactly once, the account adds up, and one bad request harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import StoppingCriteriaList

from serve_app.errors import BadRequest, Cancelled, ContextLengthExceeded, FrugalError, GenerationFailed, Overloaded, Unavailable
from serve_app.messages import Chunk, Failed, Generate, Usage
from serve_app.metrics import Metrics, Snapshot
from serve_app.model.engine import Stream
from serve_app.model.loader import LoadedModel
from serve_app.model.prompts import encode
from serve_app.model.rows import Row
from serve_app.model.static import StaticEngine
from serve_app.model.waiting import DrainRate, next_batch
from serve_app.settings import ModelTuning
from tests.engine.engine_bench import Items, ending_of, text_of
from tests.model import tiny

Start = Callable[..., StaticEngine]


async def read(stream: Stream) -> Items:
    async with asyncio.timeout(30):
        return [item async for item in stream]


async def generate(engine: StaticEngine, *requests: Generate) -> list[Items]:
    """All requests as one group."""
    streams = [Stream(request) for request in requests]
    assert engine.admit(streams) == streams
    return await asyncio.gather(*map(read, streams))


class GatedModel:
    """The tiny model, stopped before every batch until `open`, and after step number `hold_at` until `release`; can break on a word."""

    def __init__(self, hold_at: int | None = None, breaks_on: int | None = None, breaks_at_step: int = 0) -> None:
        self.entered, self.gate, self.held, self.released = (threading.Event() for _ in range(4))
        self.gate.set()
        self.batches: list[int] = []
        self._hold_at, self._breaks_on, self._breaks_at_step = hold_at, breaks_on, breaks_at_step

    def generate(self, *, input_ids: torch.Tensor, stopping_criteria: Any, **rest: Any) -> Any:
        self.entered.set()
        self.gate.wait(30)
        self.batches.append(len(input_ids))
        settle = stopping_criteria[0]
        steps = 0

        def watch(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            nonlocal steps
            if self._breaks_on is not None and steps == self._breaks_at_step and bool((ids == self._breaks_on).any()):
                raise RuntimeError("out of memory, secret detail")
            steps += 1
            if steps == self._hold_at:
                self.held.set()
                self.released.wait(30)
            return settle(ids, scores)

        criteria = StoppingCriteriaList([watch])
        return tiny.network().generate(input_ids=input_ids, stopping_criteria=criteria, **rest)


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    engines: list[StaticEngine] = []

    def make(
        model: Any = None, metrics: Metrics | None = None, eos_ids: tuple[int, ...] = (), loaded: LoadedModel | None = None, **tuning: Any
    ) -> StaticEngine:
        loaded = loaded or tiny.loaded(model, eos_ids)
        engines.append(StaticEngine(loaded, ModelTuning(**{"max_batch_size": 8, **tuning}), metrics or Metrics()))
        return engines[-1]

    yield make
    for engine in engines:
        await asyncio.to_thread(engine.close, 0)


def value(snapshot: Snapshot, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for _, samples in snapshot.families
        for sample in samples
        if sample.name == name and labels.items() <= dict(sample.labels).items()
    )


async def test_a_row_has_the_same_text_alone_and_in_any_company(start: Start) -> None:
    engine = start()
    requests = [
        tiny.ask("w1 w2 w3", "greedy"),
        tiny.ask("w4", "seeded", temperature=0.8, seed=5, top_p=0.95),
        tiny.ask("w5 w6 w7 w8 w9 w10", "penalised", repetition_penalty=1.3, frequency_penalty=0.5, max_tokens=20),
        tiny.ask("w11 w12", "short", max_tokens=3, min_tokens=2),
    ]
    alone = [(await generate(engine, request))[0] for request in requests]
    together = await generate(engine, *requests)
    assert [text_of(items) for items in together] == [text_of(items) for items in alone]
    assert [ending_of(items).usage for items in together] == [Usage(3, 8), Usage(1, 8), Usage(6, 20), Usage(2, 3)]
    assert {ending_of(items).batch_size for items in together} == {4}
    assert len(set(map(text_of, together))) == 4


async def test_it_writes_what_generate_alone_writes(start: Start) -> None:
    ids = tiny.tokenizer().encode("w1 w2 w3")
    out = tiny.network().generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    items = (await generate(start(), tiny.ask("w1 w2 w3", max_tokens=12)))[0]
    assert text_of(items) == tiny.tokenizer().decode(out, skip_special_tokens=True)


async def test_an_end_of_sequence_ends_only_rows_that_heed_it(start: Start) -> None:
    plain = (await generate(start(), tiny.ask("w1 w2 w3", max_tokens=12)))[0]
    words = text_of(plain).split()
    eos = tiny.WORDS.index(words[3])
    first = words.index(words[3])
    engine = start(eos_ids=(eos, 95))
    heeds, ignores, late = await generate(
        engine,
        tiny.ask("w1 w2 w3", "a", max_tokens=12),
        tiny.ask("w1 w2 w3", "b", max_tokens=12, ignore_eos=True),
        tiny.ask("w1 w2 w3", "c", max_tokens=12, min_tokens=first + 1),
    )
    assert (text_of(heeds).split(), ending_of(heeds).reason, ending_of(heeds).usage) == (words[:first], "stop", Usage(3, first + 1))
    assert (ending_of(ignores).reason, ending_of(ignores).usage.completion_tokens) == ("length", 12)
    assert ending_of(late).usage.completion_tokens > first + 1


async def test_a_stop_string_across_two_tokens_ends_the_row_and_is_not_sent(start: Start) -> None:
    engine = start()
    words = text_of((await generate(engine, tiny.ask("w1 w2 w3", max_tokens=12)))[0]).split()
    stop = f"{words[2][-1]} {words[3]}"
    items = (await generate(engine, tiny.ask("w1 w2 w3", max_tokens=12, stop=(stop,))))[0]
    whole = " ".join(words)
    assert text_of(items) == whole[: whole.index(stop)]
    assert (ending_of(items).reason, ending_of(items).usage.completion_tokens) == ("stop", 4)


async def test_the_shares_add_up_to_the_time_used_and_the_metrics_agree(start: Start) -> None:
    metrics = Metrics()
    engine = start(metrics=metrics, price_per_replica_hour_usd=3600.0)
    groups = await generate(engine, *(tiny.ask("w1 w2", f"r{n}", max_tokens=4 + 4 * n) for n in range(4)))
    finishes = [ending_of(items) for items in groups]
    await asyncio.to_thread(engine.close, 5)
    account, snapshot = engine.account(), metrics.snapshot("Model", "1")
    assert (account.steps, account.rows, account.wasted_rows) == (16, 4 + 8 + 12 + 16, 64 - 40)
    assert sum(finish.compute_s for finish in finishes) == pytest.approx(account.used_s, rel=0.1)  # steps of 2 ms; 1 % in the model ring
    assert all(finish.cost_usd == pytest.approx(finish.compute_s) for finish in finishes)
    assert [finish.alone_s for finish in finishes] == [pytest.approx(2 / 1000 + (4 + 4 * n) * 0.01) for n in range(4)]
    assert all(0 <= finish.queue_s <= finish.ttft_s <= finish.duration_s for finish in finishes)
    assert value(snapshot, "frugal_engine_rows_total", kind="wasted") == 24
    assert value(snapshot, "frugal_engine_rows_total", kind="live") == value(snapshot, "frugal_engine_completion_tokens_total") == 40
    assert value(snapshot, "frugal_engine_prompt_tokens_total") == 8
    assert value(snapshot, "frugal_engine_requests_total", ending="length") == 4
    assert value(snapshot, "frugal_engine_used_seconds_total") == pytest.approx(account.used_s)
    assert value(snapshot, "frugal_engine_idle_seconds_total") == pytest.approx(account.idle_s)
    for name in ("queue", "ttft"):
        assert value(snapshot, f"frugal_engine_{name}_seconds_count") == 4


async def test_refused_requests_leave_their_neighbours_alone(start: Start) -> None:
    engine = start()
    long = " ".join(["w1"] * 200)
    streams = [
        Stream(request)
        for request in (tiny.ask(long), tiny.chat(long), tiny.ask("w1", max_tokens=128), tiny.ask(""), tiny.ask("w1 w2", max_tokens=126))
    ]
    results = engine.admit(streams)
    assert [(type(result), getattr(result, "param", None)) for result in results[:4]] == [
        (ContextLengthExceeded, "prompt"),
        (ContextLengthExceeded, "messages"),
        (ContextLengthExceeded, "max_tokens"),
        (BadRequest, "prompt"),
    ]
    assert "set max_tokens to 127 or less" in str(results[2])
    assert results[4] is streams[4]
    assert ending_of(await read(streams[4])).reason == "length"


async def test_a_full_waiting_line_refuses_with_a_time_to_come_back(start: Start) -> None:
    model = GatedModel()
    model.gate.clear()
    engine = start(model, max_waiting=2, max_batch_size=1)
    running = Stream(tiny.ask("w1"))
    engine.admit([running])
    await asyncio.to_thread(model.entered.wait, 30)
    streams = [Stream(tiny.ask("w2")) for _ in range(3)]
    results = engine.admit(streams)
    assert results[:2] == streams[:2]
    assert isinstance(results[2], Overloaded)
    assert results[2].retry_after_s is not None
    assert results[2].retry_after_s >= 1
    model.gate.set()
    for stream in (running, *streams[:2]):
        assert ending_of(await read(stream)).reason == "length"


async def test_interactive_requests_go_before_batch_ones_unless_those_have_starved(start: Start) -> None:
    for starvation_s, order in ((1e6, ["interactive", "batch", "batch"]), (0.0, ["batch", "batch", "interactive"])):
        model = GatedModel()
        model.gate.clear()
        engine = start(model, max_batch_size=1, batch_starvation_s=starvation_s)
        engine.admit([Stream(tiny.ask("w9"))])
        await asyncio.to_thread(model.entered.wait, 30)
        streams = [Stream(tiny.ask("w1", priority=priority)) for priority in ("batch", "batch", "interactive")]
        engine.admit(streams)
        model.gate.set()
        endings = {stream: ending_of(await read(stream)) for stream in streams}
        by_start = sorted(streams, key=lambda stream: stream.arrived_at + endings[stream].queue_s)
        assert [stream.request.priority for stream in by_start] == order


async def test_a_cancelled_row_ends_within_one_step_and_says_what_it_took(start: Start) -> None:
    model = GatedModel(hold_at=3)
    engine = start(model)
    leaver, stayer = Stream(tiny.ask("w1 w2", max_tokens=50)), Stream(tiny.ask("w3", max_tokens=10))
    engine.admit([leaver, stayer])
    await asyncio.to_thread(model.held.wait, 30)
    leaver.cancel()
    leaver.cancel()
    model.released.set()
    finish = ending_of(await read(leaver))
    assert (finish.reason, finish.usage) == ("cancelled", Usage(2, 3))
    assert finish.compute_s > 0
    assert ending_of(await read(stayer)).usage == Usage(1, 10)
    assert (engine.account().steps, engine.account().lost_s) == (10, finish.compute_s)


async def test_a_request_cancelled_while_it_waits_never_runs(start: Start) -> None:
    model = GatedModel(hold_at=2)
    engine = start(model, max_batch_size=1)
    first, second = Stream(tiny.ask("w1")), Stream(tiny.ask("w2"))
    engine.admit([first])
    await asyncio.to_thread(model.held.wait, 30)
    engine.admit([second])
    second.cancel()
    model.released.set()
    assert ending_of(await read(second)).compute_s == 0
    assert ending_of(await read(first)).reason == "length"
    assert model.batches == [1]


async def test_a_request_that_breaks_the_model_does_not_fail_its_batch(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    model = GatedModel(breaks_on=tiny.WORDS.index("w66"))
    engine = start(model)
    requests = [tiny.ask("w1", "good"), tiny.ask("w66", "bad"), tiny.ask("w3", "fine")]
    alone = (await generate(start(), requests[0]))[0]
    good, bad, fine = await generate(engine, *requests)
    assert text_of(good) == text_of(alone)
    assert (ending_of(good).reason, ending_of(fine).reason) == ("length", "length")
    error = ending_of(bad).error
    assert isinstance(error, GenerationFailed)
    assert "bad" in error.message
    assert "secret" not in error.message
    assert "secret detail" in caplog.text
    assert model.batches == [3, 1, 1, 1]
    assert engine.alive()


async def test_a_row_whose_text_was_sent_is_not_tried_again(start: Start) -> None:
    model = GatedModel(breaks_on=tiny.WORDS.index("w66"), breaks_at_step=4)
    sent = (await generate(start(model), tiny.ask("w1 w66", max_tokens=20)))[0]
    assert text_of(sent) != ""
    assert isinstance(ending_of(sent).error, GenerationFailed)
    assert model.batches == [1]


async def test_close_lets_running_rows_finish_and_turns_the_others_away(start: Start) -> None:
    model = GatedModel(hold_at=2)
    engine = start(model, max_batch_size=1)
    running, waiting = Stream(tiny.ask("w1")), Stream(tiny.ask("w2"))
    engine.admit([running])
    await asyncio.to_thread(model.held.wait, 30)
    engine.admit([waiting])
    closing = asyncio.create_task(asyncio.to_thread(engine.close, 30))
    assert isinstance(ending_of(await read(waiting)).error, Cancelled)
    model.released.set()
    assert ending_of(await read(running)).reason == "length"
    await closing
    assert not engine.alive()
    assert [type(result) for result in engine.admit([Stream(tiny.ask("w1"))])] == [Unavailable]


async def test_close_gives_up_on_rows_that_outlast_the_drain_time(start: Start) -> None:
    model = GatedModel(hold_at=2)
    engine = start(model)
    stream = Stream(tiny.ask("w1", max_tokens=100))
    engine.admit([stream])
    await asyncio.to_thread(model.held.wait, 30)
    closing = asyncio.create_task(asyncio.to_thread(engine.close, 0))
    await asyncio.to_thread(engine._abandoned.wait, 30)
    model.released.set()
    items = await read(stream)
    await closing
    assert isinstance(ending_of(items).error, Cancelled)
    assert not engine.alive()


async def test_text_that_waits_for_its_reader_comes_as_one_chunk_before_the_one_ending() -> None:
    stream = Stream(tiny.ask("w1"))
    first, second = Failed(FrugalError("first")), Failed(FrugalError("second"))

    def write() -> None:
        stream.put_text("a", 1)
        stream.put_text("b", 2)
        stream.end(first)
        stream.end(second)
        stream.put_text("c", 1)

    writer = threading.Thread(target=write)
    writer.start()
    writer.join()
    assert await read(stream) == [Chunk("ab", 3), first]
    assert await read(stream) == []


def test_a_stream_whose_loop_is_closed_swallows_what_comes() -> None:
    async def make() -> Stream:
        return Stream(tiny.ask("w1"))

    stream = asyncio.run(make())
    stream.put_text("a", 1)
    assert stream.end(Failed(FrugalError("x")))


def test_a_control_token_inside_a_message_is_text() -> None:
    ids = encode(tiny.tokenizer(), tiny.chat("w1 <eos> w2"), 128)
    assert tiny.EOS not in ids
    assert tiny.tokenizer().decode(ids[:2]) == "<unk> w1"  # the template's role is no word of the tiny vocabulary


class NoTokenizer:
    """Must not be asked."""

    chat_template = "x"

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


def test_a_text_that_is_far_too_long_is_refused_without_tokenising_it() -> None:
    for request, field in ((tiny.ask("x" * 2049), "prompt"), (tiny.chat("x" * 2049), "messages")):
        with pytest.raises(
            ContextLengthExceeded, match=rf"^{field} takes 2049 characters, more than 16 a token; .* shorten {field}$"
        ) as caught:
            encode(NoTokenizer(), request, 128)
        assert caught.value.param == field
    assert len(encode(tiny.tokenizer(), tiny.ask("x" * 2048), 128)) == 1


async def test_many_threads_may_admit_at_once(start: Start) -> None:
    engine = start(max_waiting=256)
    groups = [[Stream(tiny.ask(f"w{number} w{thread}", max_tokens=2)) for number in range(4)] for thread in range(8)]
    assert await asyncio.gather(*(asyncio.to_thread(engine.admit, group) for group in groups)) == groups
    endings = [ending_of(await read(stream)) for group in groups for stream in group]
    assert [ending.usage for ending in endings] == [Usage(2, 2)] * 32


async def test_one_text_is_tokenised_at_a_time(start: Start) -> None:
    tokenizer = OneAtATime()
    loaded = replace(tiny.loaded(), tokenizer=tokenizer)
    engine = start(loaded=loaded)
    streams = [Stream(tiny.ask("w1", max_tokens=1)) for _ in range(2)]
    await asyncio.gather(*(asyncio.to_thread(engine.admit, [stream]) for stream in streams))
    assert [ending_of(await read(stream)).reason for stream in streams] == ["length", "length"]
    assert not tokenizer.met


class OneAtATime:
    """The tiny tokenizer, which waits a moment in `encode` for a second thread to come in; `met` is set where one does."""

    def __init__(self) -> None:
        self.met = False
        self._meeting = threading.Barrier(2)

    def encode(self, text: str) -> list[int]:
        with contextlib.suppress(threading.BrokenBarrierError):
            self._meeting.wait(0.2)
            self.met = True
        return list(tiny.tokenizer().encode(text))

    def decode(self, *args: Any, **options: Any) -> str:
        return str(tiny.tokenizer().decode(*args, **options))


def test_a_failing_chat_template_is_the_callers_error() -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadRequest, match="roles must alternate") as caught:
        encode(tokenizer, tiny.chat("w1"), 128)
    assert caught.value.param == "messages"
    tokenizer.chat_template = None
    with pytest.raises(BadRequest, match="no chat template"):
        encode(tokenizer, tiny.chat("w1"), 128)


async def test_rows_share_a_batch_only_within_the_models_positions() -> None:
    def row(num_prompt: int, max_tokens: int) -> Row:
        return Row(Stream(tiny.ask("w1", max_tokens=max_tokens), now=lambda: 0.0), [5] * num_prompt, (), str)

    long, short, answerer = row(200, 10), row(10, 40), row(10, 200)
    tuning = ModelTuning(max_batch_size=8)
    assert next_batch([long, answerer, short], tuning, 0.0, max_positions=256) == [long, short]
    assert next_batch([answerer, long, short], tuning, 0.0, max_positions=100) == [answerer]


def test_the_time_to_come_back_is_what_the_line_takes_at_the_measured_rate() -> None:
    rate = DrainRate(guess_s=2.0)
    assert rate.retry_after_s(10) == 20.0
    rate.add(8, 4.0)
    assert rate.retry_after_s(5) == 3.0
