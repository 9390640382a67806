"""Hit, join, miss, bypass; who leaves and what goes on; the store may break and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

import pytest

from serve_app.cache.answers import Answers
from serve_app.cache.key import answer_key
from serve_app.errors import Cancelled, GenerationFailed, Overloaded, Stopping
from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import Answer, Ask, CachePolicy, Chunk, Failed, Finish, Item, Opening, Sampling
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings
from tests.fast.fakes import FakeModel, MemoryStore, ask, finish

KEY = answer_key(ask(), "f" * 64)


class Desk:
    """Answers over a fake model, a fake store and a clock."""

    def __init__(self, **settings: object) -> None:
        self.model, self.store, self.time = FakeModel(), MemoryStore(), 1_000_000.0
        self.answers = Answers(
            self.model.generate,
            self.model.fingerprint,
            self.model.promote,
            self.store,
            CacheSettings.load(settings),
            Metrics(),
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

    async def asked(self, question: Ask) -> Answer:
        """Ask, and have the model say two words."""
        caller = self.call(question)
        num = len(self.model.requests)
        await self.until(lambda: len(self.model.requests) > num)
        self.model.say("two ", "words")
        self.model.finish()
        return await caller


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


async def test_500_callers_of_one_new_key_share_one_generation(desk: Desk) -> None:
    callers = [desk.call(ask(request_id=str(number))) for number in range(500)]
    await desk.model.started.wait()
    desk.model.say("shared ", "answer")
    desk.model.finish()
    answers = await asyncio.gather(*callers)
    assert {answer.text for answer in answers} == {"shared answer"}
    assert [answer.opening.outcome for answer in answers].count("miss") == 1
    assert [answer.opening.outcome for answer in answers].count("join") == 499
    assert len(desk.model.requests) == 1
    rows = desk.answers.books.take()
    assert {row.outcome: row.requests for row in rows} == {"miss": 1, "join": 499}
    assert sum(row.compute_s for row in rows) == 0.5
    assert sum(row.avoided_s for row in rows) == 499 * 0.5


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


async def test_a_joiner_that_allows_storing_gets_the_answer_stored(desk: Desk) -> None:
    first, second = desk.call(ask(policy=CachePolicy(no_store=True))), desk.call(ask())
    await desk.model.started.wait()
    desk.model.finish()
    await asyncio.gather(first, second)
    assert KEY in desk.store.entries


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


async def test_a_person_who_joins_a_background_answer_promotes_it(desk: Desk) -> None:
    background = desk.call(ask(priority="batch", request_id="feed-1"))
    await desk.model.started.wait()
    person = desk.call(ask())
    await desk.until(lambda: desk.model.promoted == ["feed-1"])
    desk.model.finish()
    await asyncio.gather(background, person)


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


async def test_who_joins_before_the_generation_starts_is_counted_in_its_priority(desk: Desk) -> None:
    background, person = desk.call(ask(priority="batch")), desk.call(ask())
    await desk.model.started.wait()
    assert [request.priority for request in desk.model.requests] == ["interactive"]
    desk.model.finish()
    await asyncio.gather(background, person)


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
