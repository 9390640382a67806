"""What every engine does, whatever it runs on: the tests of tests/engine/test_engine_contract.py and of tests/gpu, over a `Bench`.

The class is collected where a module imports it and has a fixture `bench`.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from serve_app.errors import BadRequest, Cancelled, ContextLengthExceeded, Unavailable
from serve_app.messages import Finish
from serve_app.model import threaded
from serve_app.model.capabilities import ALL
from serve_app.model.engine import Stream
from tests.engine.engine_bench import Bench, Items, assert_same, ending_of, generate, read, text_of, words
from tests.model import tiny

CHANGED: dict[str, dict[str, Any]] = {  # for each field that an engine may serve, a request that uses it
    "temperature": {"temperature": 0.7},
    "top_p": {"temperature": 0.7, "top_p": 0.5},
    "top_k": {"temperature": 0.7, "top_k": 3},
    "min_p": {"temperature": 0.7, "min_p": 0.2},
    "seed": {"temperature": 0.7, "seed": 5},
    "frequency_penalty": {"frequency_penalty": 1.0},
    "presence_penalty": {"presence_penalty": 1.0},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "stop": {"stop": ("w1",)},
    "min_tokens": {"min_tokens": 2},
    "ignore_eos": {"ignore_eos": True},
}


class EngineContract:
    """All tests. `bench` is the module's fixture."""

    async def test_rows_in_company_write_what_generate_writes_alone(self, bench: Bench) -> None:
        prompts = [(words(3 + number * 9, number), 2 + number * 3) for number in range(6)]
        expected = [bench.alone(prompt, most) for prompt, most in prompts]
        together = await generate(
            bench.start(), *(tiny.ask(prompt, str(number), max_tokens=most) for number, (prompt, most) in enumerate(prompts))
        )
        for items, plain in zip(together, expected, strict=True):
            assert_same(text_of(items), plain)
        assert [(ending_of(items).reason, ending_of(items).usage.completion_tokens) for items in together] == [
            ("length", most) for _, most in prompts
        ]

    async def test_a_seed_draws_the_same_text_alone_and_in_company_and_another_seed_another(self, bench: Bench) -> None:
        engine = bench.start()
        drawn: dict[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 0.95, "min_p": 0.01, "max_tokens": 12}
        one, two = tiny.ask("w4 w5", "one", seed=5, **drawn), tiny.ask("w4 w5", "two", seed=6, **drawn)
        alone = (await generate(engine, one))[0]
        first, second, *_ = await generate(engine, one, two, tiny.ask("w1", "greedy"))
        assert text_of(first) == text_of(alone)
        assert text_of(second) != text_of(alone)

    async def test_filters_that_leave_one_token_give_the_greedy_text_at_any_temperature(self, bench: Bench) -> None:
        expected = bench.alone("w1 w2 w3", 10)
        narrow: tuple[dict[str, Any], ...] = ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0})
        engine = bench.start()
        hot = await generate(
            engine, *(tiny.ask("w1 w2 w3", str(n), temperature=2.0, max_tokens=10, **only) for n, only in enumerate(narrow))
        )
        for items in hot:
            assert_same(text_of(items), expected)

    async def test_penalties_change_the_text_and_a_large_one_forbids_repeating(self, bench: Bench) -> None:
        engine = bench.start()
        penalties: list[dict[str, Any]] = [
            {},
            {"frequency_penalty": 2.0},
            {"presence_penalty": 2.0},
            {"repetition_penalty": 1e6},
        ]
        plain, frequency, presence, repetition = await generate(
            engine, *(tiny.ask("w1 w2 w3", str(n), max_tokens=40, **penalty) for n, penalty in enumerate(penalties))
        )
        assert len({text_of(items) for items in (plain, frequency, presence)}) == 3
        seen = ["w1", "w2", "w3", *text_of(repetition).split()]
        assert len(seen) == len(set(seen))

    async def test_an_end_of_sequence_ends_only_rows_that_heed_it(self, bench: Bench) -> None:
        plain = text_of((await generate(bench.start(), tiny.ask("w1 w2 w3", max_tokens=12)))[0]).split()
        eos = tiny.WORDS.index(plain[3])
        first = plain.index(plain[3])
        heeds, ignores, late = await generate(
            bench.start(eos_ids=(eos,)),
            tiny.ask("w1 w2 w3", "heeds", max_tokens=12),
            tiny.ask("w1 w2 w3", "ignores", max_tokens=12, ignore_eos=True),
            tiny.ask("w1 w2 w3", "late", max_tokens=12, min_tokens=first + 2),
        )
        assert (text_of(heeds).split(), ending_of(heeds).reason) == (plain[:first], "stop")
        assert (ending_of(heeds).usage.completion_tokens, ending_of(ignores).usage.completion_tokens) == (first + 1, 12)
        assert plain[3] not in text_of(ignores).split()
        assert ending_of(late).usage.completion_tokens >= first + 2

    async def test_a_stop_string_across_two_tokens_ends_the_row_and_is_not_sent(self, bench: Bench) -> None:
        engine = bench.start()
        whole = text_of((await generate(engine, tiny.ask("w1 w2 w3", max_tokens=12)))[0])
        plain = whole.split()
        stop = f"{plain[2][-1]} {plain[3]}"
        items = (await generate(engine, tiny.ask("w1 w2 w3", max_tokens=12, stop=(stop,))))[0]
        assert text_of(items) == whole[: whole.index(stop)]
        assert (ending_of(items).reason, ending_of(items).usage.completion_tokens) == ("stop", 4)

    async def test_fields_are_served_or_refused_by_name(self, bench: Bench) -> None:
        engine = bench.start()
        assert set(CHANGED) <= ALL
        assert set(engine.card.sampling_fields) == engine.capabilities <= ALL
        for name, sampling in CHANGED.items():
            stream = Stream(tiny.ask("w1 w2", name, max_tokens=3, **sampling))
            (result,) = engine.admit([stream])
            if name in engine.capabilities:
                assert isinstance(ending_of(await read(stream)), Finish)
            else:
                assert isinstance(result, BadRequest)
                assert (result.status, result.param) == (400, name)

    async def test_a_field_that_it_does_not_serve_is_refused_and_the_neighbour_is_not(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = bench.start()
        monkeypatch.setattr(threaded, "ENGINES", {engine.kind: ALL - {"seed"}})
        streams = [Stream(tiny.ask("w1", name, max_tokens=3, **CHANGED[name])) for name in ("seed", "temperature")]
        refused, taken = engine.admit(streams)
        assert isinstance(refused, BadRequest)
        assert (refused.status, refused.param) == (400, "seed")
        assert f"model.engine: {engine.kind}" in refused.message
        assert taken is streams[1]
        assert ending_of(await read(streams[1])).reason == "length"

    async def test_refused_requests_leave_their_neighbours_alone(self, bench: Bench) -> None:
        expected = bench.alone("w1 w2", 5)
        engine = bench.start()
        streams = [Stream(tiny.ask(text, text, max_tokens=5)) for text in (words(200, 1), "w1 w2", "")]
        results = engine.admit(streams)
        assert [type(result) for result in results] == [ContextLengthExceeded, Stream, BadRequest]
        assert_same(text_of(await read(streams[1])), expected)

    async def test_one_who_leaves_is_told_so_and_makes_room_for_the_next(self, bench: Bench) -> None:
        gate = bench.gate()
        engine = bench.start(max_batch_size=1)
        leaver, waiter = (Stream(tiny.ask(text, text, max_tokens=100)) for text in ("w1", "w2"))
        next_one = Stream(tiny.ask("w3", "next", max_tokens=4))
        engine.admit([leaver, waiter, next_one])
        await asyncio.to_thread(gate.entered.wait, 30)
        leaver.cancel()
        waiter.cancel()
        gate.open.set()
        endings = [ending_of(await read(stream)) for stream in (leaver, waiter, next_one)]
        assert [ending.reason for ending in endings] == ["cancelled", "cancelled", "length"]
        assert endings[1].compute_s == 0
        assert gate.num_forwards <= 20 + 4  # of 100: one more step, or what a thread does before another one gets its turn

    async def test_interactive_requests_go_before_batch_ones_and_a_promoted_one_with_them(self, bench: Bench) -> None:
        gate = bench.gate()
        engine = bench.start(max_batch_size=1, batch_starvation_s=1e6)
        order = [("running", "interactive"), ("later", "batch"), ("sooner", "interactive"), ("promoted", "batch")]
        streams = {name: Stream(tiny.ask("w1", name, priority, max_tokens=2)) for name, priority in order}  # type: ignore[arg-type]
        engine.admit([streams["running"]])
        await asyncio.to_thread(gate.entered.wait, 30)
        engine.admit([streams[name] for name, _ in order[1:]])
        engine.promote("promoted")
        gate.open.set()
        endings = {name: ending_of(await read(stream)) for name, stream in streams.items()}
        begun = {name: streams[name].arrived_at + ending.queue_s for name, ending in endings.items()}
        assert sorted(begun, key=begun.__getitem__) == ["running", "sooner", "promoted", "later"]

    async def test_close_lets_running_rows_finish_and_turns_the_others_away(self, bench: Bench) -> None:
        gate = bench.gate()
        engine = bench.start(max_batch_size=1)
        running, waiting = Stream(tiny.ask("w1", "running", max_tokens=9)), Stream(tiny.ask("w2", "waiting"))
        engine.admit([running, waiting])
        await asyncio.to_thread(gate.entered.wait, 30)
        closing = asyncio.create_task(asyncio.to_thread(engine.close, 30))
        assert isinstance(ending_of(await read(waiting)).error, Cancelled)
        gate.open.set()
        assert ending_of(await read(running)).reason == "length"
        await closing
        assert not engine.alive()
        assert [type(result) for result in engine.admit([Stream(tiny.ask("w1"))])] == [Unavailable]

    async def test_close_gives_up_on_rows_that_outlast_the_drain_time(self, bench: Bench) -> None:
        gate = bench.gate()
        engine = bench.start()
        running = Stream(tiny.ask("w1", "running", max_tokens=100))
        engine.admit([running])
        await asyncio.to_thread(gate.entered.wait, 30)
        closing = asyncio.create_task(asyncio.to_thread(engine.close, 0))
        await asyncio.to_thread(engine._abandoned.wait, 30)
        gate.open.set()
        assert isinstance(ending_of(await read(running)).error, Cancelled)
        await closing

    async def test_every_second_is_in_the_books_and_the_rows_shares_in_the_time_used(self, bench: Bench) -> None:
        started_at = time.monotonic()
        engine = bench.start()
        requests = [tiny.ask(words(5 + number, number), str(number), max_tokens=10 + 5 * number) for number in range(5)]
        finishes = [ending_of(items) for items in await generate(engine, *requests)]
        await asyncio.to_thread(engine.close, 10)
        account, passed_s = engine.account(), time.monotonic() - started_at
        assert account.used_s + account.idle_s + account.startup_s <= passed_s
        assert 0 < sum(finish.compute_s for finish in finishes) + account.lost_s <= account.used_s
        assert sum(finish.compute_s for finish in finishes) == pytest.approx(account.used_s - account.lost_s, rel=0.3)  # steps of 1 ms
        assert (account.lost_s, account.running, account.waiting) == (0, 0, 0)
        assert all(0 <= finish.queue_s <= finish.ttft_s <= finish.duration_s for finish in finishes)
        assert all(finish.compute_s > 0 for finish in finishes)

    async def test_the_parts_of_the_account_make_up_the_engines_whole_time(self, bench: Bench) -> None:
        engine = bench.start()
        begun, before = time.monotonic(), engine.account()
        await generate(engine, *(tiny.ask("w1 w2", str(number), max_tokens=30) for number in range(4)))
        ended, after = time.monotonic(), engine.account()
        parts = sum(getattr(after, name) - getattr(before, name) for name in ("used_s", "idle_s", "startup_s"))
        assert parts == pytest.approx(ended - begun, rel=0.01, abs=0.002)

    async def test_two_hundred_requests_of_which_many_leave_all_end_once(self, bench: Bench) -> None:
        engine, choose = bench.start(max_waiting=1000), random.Random(3)
        streams = [
            Stream(tiny.ask(words(choose.randrange(1, 30), number), str(number), max_tokens=choose.randrange(1, 9)))
            for number in range(200)
        ]
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
        assert engine.alive()
        assert engine.account().waiting == 0
