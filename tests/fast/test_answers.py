"""Hit, join, miss, bypass; who leaves and what goes on; the store may break and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

import pytest

from serve_app.errors import Cancelled, GenerationFailed, Overloaded, Stopping
from serve_app.messages import Answer, CachePolicy, Chunk, Failed, Item, Opening, Sampling
from tests.fast.fakes import ask, finish
from tests.fast.fakes_answers import KEY, Desk


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await desk.answers.close()


async def test_the_second_time_it_is_a_hit(desk: Desk) -> None:
    first = await desk.asked(ask())
    assert first == Answer(Opening("miss", KEY, replay_s=10), "two words", finish())
    desk.time += 30
    second = await desk.answers.whole(ask(request_id="request-2", priority="batch"))
    assert second == Answer(Opening("hit", KEY, 30.0, 10), "two words", finish())
    assert len(desk.model.requests) == 1


async def test_an_answer_older_than_its_ttl_is_made_again(desk: Desk) -> None:
    await desk.asked(ask())
    desk.time += desk.answers.settings.ttl_s + 1
    assert (await desk.asked(ask())).opening.outcome == "miss"


async def test_a_failed_generation_reaches_all_and_is_not_stored(desk: Desk) -> None:
    callers = [desk.call(ask()) for _ in range(2)]
    await desk.model.started.wait()
    desk.model.say("half")
    desk.model.fail(GenerationFailed("broke"))
    assert await asyncio.gather(*callers, return_exceptions=True) == [GenerationFailed("broke")] * 2
    assert desk.store.entries == {}


async def test_a_stream_that_just_ends_is_an_error_and_not_an_answer(desk: Desk) -> None:
    async def broken(_request: object) -> AsyncGenerator[Item, None]:
        yield Chunk("half", 1)

    desk.answers.flights._generate = broken
    with pytest.raises(GenerationFailed):
        await desk.answers.whole(ask())
    assert desk.store.entries == {}


async def test_an_answer_the_model_cancelled_is_neither_sent_as_whole_nor_stored(desk: Desk) -> None:
    caller = desk.call(ask())
    await desk.model.started.wait()
    desk.model.finish(reason="cancelled")
    with pytest.raises(Cancelled):
        await caller
    assert desk.store.entries == {}


@pytest.mark.parametrize(
    ("policy", "outcome", "stored"),
    [
        (CachePolicy(no_cache=True), "bypass", "new"),
        (CachePolicy(no_cache=True, no_store=True), "bypass", "old"),
        (CachePolicy(max_age_s=10), "miss", "new"),
    ],
)
async def test_what_a_request_says_about_stored_answers(desk: Desk, policy: CachePolicy, outcome: str, stored: str) -> None:
    await desk.asked(ask())
    before = desk.store.entries[KEY]
    desk.time += 30
    assert (await desk.asked(ask(policy=policy))).opening.outcome == outcome
    assert (desk.store.entries[KEY] is before) == (stored == "old")


async def test_no_store_still_takes_what_is_stored(desk: Desk) -> None:
    await desk.asked(ask())
    assert (await desk.answers.whole(ask(policy=CachePolicy(no_store=True)))).opening.outcome == "hit"


async def test_sampled_answers_are_not_shared_unless_asked_for(desk: Desk) -> None:
    sampled = Sampling(temperature=0.7)
    assert (await desk.asked(ask(sampling=sampled))).opening.outcome == "bypass"
    assert (await desk.asked(ask(sampling=sampled))).opening.outcome == "bypass"
    seeded = replace(sampled, seed=7)
    assert (await desk.asked(ask(sampling=seeded))).opening.outcome == "miss"
    assert (await desk.answers.whole(ask(sampling=seeded))).opening.outcome == "hit"
    always = CachePolicy(sampled_always=True)
    assert (await desk.asked(ask(sampling=sampled, policy=always))).opening.outcome == "miss"
    assert (await desk.answers.whole(ask(sampling=sampled, policy=always))).opening.outcome == "hit"


async def test_a_broken_store_is_a_miss(desk: Desk) -> None:
    desk.store.broken = True
    assert (await desk.asked(ask())).opening.outcome == "miss"
    desk.store.broken = False
    assert (await desk.asked(ask())).opening.outcome == "miss"


async def test_too_many_at_once_are_refused_with_a_time_to_come_back() -> None:
    desk = Desk(max_in_flight=1)
    first = desk.call(ask("one"))
    await desk.model.started.wait()
    with pytest.raises(Overloaded) as refusal:
        await desk.answers.whole(ask("two"))
    assert refusal.value.retry_after_s is not None
    desk.model.finish()
    await first
    assert (await desk.asked(ask("two"))).opening.outcome == "miss"


async def test_closing_gives_everybody_an_ending(desk: Desk) -> None:
    items: list[Item] = []

    async def follow() -> None:
        items.extend([item async for item in desk.answers.stream(ask())])

    caller = asyncio.create_task(follow())
    await desk.model.started.wait()
    await desk.answers.close()
    await caller
    assert isinstance(items[-1], Failed)
    assert isinstance(items[-1].error, Cancelled)
    with pytest.raises(Stopping):
        await desk.answers.whole(ask("and now?"))


async def test_the_model_is_told_which_weights_the_key_was_made_for(desk: Desk) -> None:
    await desk.asked(ask())
    assert [request.fingerprint for request in desk.model.requests] == ["f" * 64]


async def test_closing_ends_private_generations_too(desk: Desk) -> None:
    private = desk.call(ask(policy=CachePolicy(no_cache=True, no_store=True)))
    await desk.model.started.wait()
    await desk.answers.close()
    with pytest.raises(Cancelled):
        await private


async def test_a_refused_caller_is_in_the_books() -> None:
    desk = Desk(max_in_flight=1)
    first = desk.call(ask("one"))
    await desk.model.started.wait()
    with pytest.raises(Overloaded):
        await desk.answers.whole(ask("two"))
    desk.model.finish()
    await first
    assert {(row.outcome, row.ending): row.requests for row in desk.answers.books.take()} == {("refused", "error"): 1, ("miss", "stop"): 1}


@pytest.mark.parametrize(
    ("policy", "settings", "replay_s"),
    [
        (CachePolicy(), {}, 10),
        (CachePolicy(no_cache=True), {}, 10),
        (CachePolicy(no_store=True), {}, 0),
        (CachePolicy(), {"replay_s": 0}, 0),
        (CachePolicy(), {"ttl_s": 4}, 4),
    ],
)
async def test_what_is_stored_may_be_replayed_and_not_beyond_its_time_to_live(
    policy: CachePolicy, settings: dict[str, object], replay_s: float
) -> None:
    desk = Desk(**settings)
    assert (await desk.asked(ask(policy=policy))).opening.replay_s == replay_s


async def test_a_stored_answer_may_be_replayed_for_the_rest_of_its_time_to_live(desk: Desk) -> None:
    await desk.asked(ask())
    desk.time += desk.answers.settings.ttl_s - 3
    assert (await desk.answers.whole(ask())).opening.replay_s == 3
