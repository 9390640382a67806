"""Any number of callers of one question share one generation: early or late, streaming or not, whoever leaves and whoever is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from serve_app.errors import Cancelled, Overloaded
from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import CachePolicy, Chunk, Finish, Generate, Item, Opening, Sampling
from tests.fast.fakes import ask, finish
from tests.fast.fakes_answers import KEY, Desk


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await desk.answers.close()


async def streamed(desk: Desk, name: str = "request-1") -> tuple[bytes, str]:
    """The bytes of a stream, and how it was made."""
    items = [item async for item in desk.answers.stream(ask(request_id=name))]
    assert isinstance(items[0], Opening)
    assert items[-1] == finish()
    return b"".join(item.text.encode() for item in items if isinstance(item, Chunk)), items[0].outcome


async def whole(desk: Desk, name: str = "request-1") -> tuple[bytes, str]:
    answer = await desk.answers.whole(ask(request_id=name))
    return answer.text.encode(), answer.opening.outcome


async def test_500_callers_of_one_new_key_half_of_them_streaming_share_one_generation(desk: Desk) -> None:
    words = [f"word {number} é " for number in range(50)]
    callers = [asyncio.create_task((streamed if number % 2 else whole)(desk, str(number))) for number in range(250)]
    await desk.model.started.wait()
    for word in words[:25]:
        desk.model.say(word)
        await asyncio.sleep(0)
    callers += [asyncio.create_task((streamed if number % 2 else whole)(desk, str(number))) for number in range(250, 500)]
    for word in words[25:]:
        desk.model.say(word)
        await asyncio.sleep(0)
    desk.model.finish()
    got = await asyncio.gather(*callers)
    assert {said for said, _ in got} == {"".join(words).encode()}
    assert [outcome for _, outcome in got] == ["miss"] + ["join"] * 499
    assert len(desk.model.requests) == 1
    rows = desk.answers.books.take()
    assert {row.outcome: row.requests for row in rows} == {"miss": 1, "join": 499}
    assert sum(row.compute_s for row in rows) == 0.5
    assert sum(row.avoided_s for row in rows) == 499 * 0.5


async def test_a_chunk_is_with_all_500_at_their_next_turn_of_the_event_loop(desk: Desk) -> None:
    turns, pushed, got = desk.turns(), [0, 0], []

    async def generate(_request: Generate) -> AsyncGenerator[Item, None]:
        await asyncio.sleep(0)
        for at, word in enumerate(("first", "second")):
            yield Chunk(word, 1)
            pushed[at] = turns()  # runs on as soon as the chunk is in the flight
            for _ in range(3):
                await asyncio.sleep(0)
        yield finish()

    async def follow() -> None:
        async with aclosing(desk.answers.stream(ask())) as items:
            seen = [turns() async for item in items if isinstance(item, Chunk)]
        got.append(seen)

    desk.answers.flights._generate = generate
    await asyncio.gather(*(follow() for _ in range(500)))
    assert len(got) == 500
    assert {(first - pushed[0], second - pushed[1]) for first, second in got} <= {(delay, other) for delay in (0, 1) for other in (0, 1)}


async def test_who_joins_late_has_what_exists_without_a_turn_of_the_event_loop(desk: Desk) -> None:
    leader = desk.call(ask())
    await desk.model.started.wait()
    desk.model.say("one ", "two ")
    await desk.until(lambda: desk.model.num_taken == 2)
    turns = desk.turns()
    async with aclosing(desk.answers.stream(ask())) as late:
        assert (await anext(late), await anext(late)) == (Opening("join", KEY, replay_s=10), Chunk("one two ", 2))
        assert turns() == 0
    desk.model.finish()
    await leader


async def test_a_late_caller_replays_what_exists_and_then_follows(desk: Desk) -> None:
    leader = desk.call(ask())
    await desk.model.started.wait()
    desk.model.say("one ", "two ")
    async with aclosing(desk.answers.stream(ask())) as late:
        assert await anext(late) == Opening("join", KEY, replay_s=10)
        assert await anext(late) == Chunk("one two ", 2)
        desk.model.say("three")
        assert await anext(late) == Chunk("three", 1)
        desk.model.finish()
        assert isinstance(await anext(late), Finish)
    assert (await leader).text == "one two three"


async def test_log_probabilities_reach_the_first_caller_who_joins_and_who_comes_later(desk: Desk) -> None:
    words = [Chunk(word, 1, (TokenLogprob(Candidate(word.encode(), -0.5), (), at),)) for word, at in (("two ", 0), ("words", 4))]
    question = ask(sampling=Sampling(logprobs=0))
    leader = desk.call(question)
    await desk.model.started.wait()
    desk.model.send(words[0])
    await desk.until(lambda: True)
    joiner = desk.call(question)
    desk.model.send(words[1])
    desk.model.finish()
    logprobs = words[0].logprobs + words[1].logprobs
    assert [(await caller).logprobs for caller in (leader, joiner)] == [logprobs, logprobs]
    later = await desk.answers.whole(question)
    assert (later.opening.outcome, later.text, later.logprobs) == ("hit", "two words", logprobs)


async def test_the_first_caller_leaves_and_the_others_get_everything(desk: Desk) -> None:
    leader, follower = desk.call(ask()), desk.call(ask())
    await desk.model.started.wait()
    desk.model.say("half ")
    await desk.until(lambda: True)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    desk.model.say("whole")
    desk.model.finish()
    assert (await follower).text == "half whole"
    assert desk.model.cancelled == []


async def test_when_all_leave_the_generation_is_cancelled_and_nothing_is_stored(desk: Desk) -> None:
    callers = [desk.call(ask()) for _ in range(3)]
    await desk.model.started.wait()
    desk.model.say("never heard")
    for caller in callers:
        caller.cancel()
    await desk.model.stopped.wait()
    assert len(desk.model.cancelled) == 1
    assert desk.store.entries == {}
    assert (await desk.asked(ask())).opening.outcome == "miss"


async def test_finish_abandoned_stores_what_nobody_waits_for() -> None:
    desk = Desk(finish_abandoned=True)
    caller = desk.call(ask())
    await desk.model.started.wait()
    caller.cancel()
    desk.model.say("kept")
    desk.model.finish()
    await desk.until(lambda: not desk.answers.flights.num_flying)
    assert (await desk.answers.whole(ask())).opening.outcome == "hit"


async def test_a_joiner_that_allows_storing_gets_the_answer_stored(desk: Desk) -> None:
    first, second = desk.call(ask(policy=CachePolicy(no_store=True))), desk.call(ask())
    await desk.model.started.wait()
    desk.model.finish()
    await asyncio.gather(first, second)
    assert KEY in desk.store.entries


async def test_a_person_who_joins_a_background_answer_promotes_it(desk: Desk) -> None:
    background = desk.call(ask(priority="batch", request_id="feed-1"))
    await desk.model.started.wait()
    person = desk.call(ask())
    await desk.until(lambda: desk.model.promoted == ["feed-1"])
    desk.model.finish()
    await asyncio.gather(background, person)


async def test_who_joins_before_the_generation_starts_is_counted_in_its_priority(desk: Desk) -> None:
    background, person = desk.call(ask(priority="batch")), desk.call(ask())
    await desk.model.started.wait()
    assert [request.priority for request in desk.model.requests] == ["interactive"]
    desk.model.finish()
    await asyncio.gather(background, person)


async def test_a_slow_reader_delays_nobody_and_gets_everything(desk: Desk) -> None:
    async with aclosing(desk.answers.stream(ask())) as slow:
        opening = asyncio.ensure_future(anext(slow))
        await desk.model.started.wait()
        await opening
        quick = desk.call(ask())
        desk.model.say(*(f"{number} " for number in range(100)))
        desk.model.finish()
        text = (await quick).text
        assert (await anext(slow), await anext(slow)) == (Chunk(text, 100), finish())


async def test_some_leave_before_and_some_while_it_is_said(desk: Desk) -> None:
    callers = [desk.call(ask()) for _ in range(10)]
    await desk.until(lambda: desk.answers.flights.num_followers == 10)
    for caller in callers[:3]:
        caller.cancel()
    await desk.model.started.wait()
    desk.model.say("half ")
    await desk.until(lambda: desk.model.num_taken == 1)
    for caller in callers[3:9]:
        caller.cancel()
    desk.model.say("whole")
    desk.model.finish()
    assert (await callers[9]).text == "half whole"
    assert (desk.model.cancelled, len(desk.model.requests)) == ([], 1)


async def test_when_all_have_left_the_model_hears_of_it_within_two_turns_and_the_next_caller_begins_anew(desk: Desk) -> None:
    callers = [desk.call(ask()) for _ in range(20)]
    await desk.model.started.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    turns = desk.turns()
    await desk.model.stopped.wait()
    assert turns() <= 2
    assert (await desk.asked(ask())).opening.outcome == "miss"


async def test_whoever_leaves_while_the_store_is_looked_into_harms_nobody(desk: Desk) -> None:
    await desk.asked(ask())
    desk.store.gate.clear()
    first, second = desk.call(ask()), desk.call(ask())
    await desk.until(lambda: desk.store.num_reads == 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    desk.store.gate.set()
    assert (await second).opening.outcome == "hit"


async def test_a_crowd_reads_the_store_once(desk: Desk) -> None:
    callers = [desk.call(ask()) for _ in range(100)]
    await desk.model.started.wait()
    callers += [desk.call(ask()) for _ in range(100)]
    desk.model.finish()
    await asyncio.gather(*callers)
    assert desk.store.num_reads == 1


async def test_closing_before_a_flight_has_taken_its_first_step_gives_its_caller_an_ending(desk: Desk) -> None:
    caller = desk.call(ask(policy=CachePolicy(no_cache=True)))
    await desk.until(lambda: desk.answers.flights.num_flying == 1)
    await desk.answers.close()
    with pytest.raises(Cancelled):
        await caller


async def test_hits_find_room_where_no_generation_does() -> None:
    desk = Desk(max_in_flight=1)
    await desk.asked(ask("known"))
    busy = desk.call(ask("busy"))
    await desk.until(lambda: desk.answers.flights.num_flying == 1)
    with pytest.raises(Overloaded):
        await desk.answers.whole(ask("new"))
    assert (await desk.answers.whole(ask("known"))).opening.outcome == "hit"
    desk.model.finish()
    await busy
