"""Time to live, stale answers and their refresh, only-if-cached, and refusals that are remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.cache.rules import Held, Limits, decide
from serve_app.errors import BadRequest, ContextLengthExceeded, FrugalError, GenerationFailed, ModelChanged, NotCached, Overloaded
from serve_app.messages import Answer, Ask, CachePolicy, Chunk, Generate, Item, Sampling
from tests.fast.fakes import ask, finish
from tests.fast.fakes_answers import KEY, Desk

TTL_S, WINDOW_S = 100, 20
LATE_S = TTL_S + 10
ONLY = CachePolicy(only_if_cached=True)
TOO_LONG = ContextLengthExceeded("messages: too long", param="messages")


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """With an old answer stored, some seconds beyond its time to live."""
    desk = Desk(ttl_s=TTL_S, stale_while_revalidate_s=WINDOW_S, max_stale_s=50)
    await desk.asked(ask(), "old")
    desk.time += LATE_S
    yield desk
    await desk.answers.close()


async def refreshed(desk: Desk, text: str = "new") -> None:
    """Let the generation that runs in the background end well."""
    await desk.until(lambda: len(desk.model.requests) == 2)
    desk.model.say(text)
    desk.model.finish()
    await desk.until(lambda: desk.answers.flights.num_flying == 0)


def how(answer: Answer) -> tuple[str, str, float | None]:
    return answer.text, answer.opening.outcome, answer.opening.age_s


async def test_a_stale_answer_is_served_at_once_and_replaced_once_in_the_background(desk: Desk) -> None:
    got = [await desk.answers.whole(ask(request_id=f"late-{number}")) for number in range(3)]
    assert [how(answer) for answer in got] == [("old", "stale", LATE_S)] * 3
    assert [answer.opening.replay_s for answer in got] == [0.0] * 3
    await refreshed(desk)
    assert [(request.request_id, request.priority) for request in desk.model.requests[1:]] == [("late-0.refresh", "batch")]
    assert how(await desk.answers.whole(ask())) == ("new", "hit", 0.0)
    assert desk.metric("frugal_cache_refreshes_total", result="done") == 1


async def test_a_hundred_callers_of_a_stale_answer_at_once_cause_one_refresh(desk: Desk) -> None:
    got = await asyncio.gather(*(desk.answers.whole(ask()) for _ in range(100)))
    assert {how(answer) for answer in got} == {("old", "stale", LATE_S)}
    await refreshed(desk)
    assert len(desk.model.requests) == 2


async def test_a_refresh_goes_on_when_the_caller_who_caused_it_and_one_who_joined_it_have_left(desk: Desk) -> None:
    await desk.answers.whole(ask())
    joined = desk.call(ask(policy=CachePolicy(max_age_s=5)))
    await desk.until(lambda: desk.answers.flights.num_followers == 1)
    joined.cancel()
    await asyncio.gather(joined, return_exceptions=True)
    await refreshed(desk)
    assert desk.model.cancelled == []
    assert (await desk.answers.whole(ask())).text == "new"


async def test_who_takes_nothing_stale_joins_the_refresh_and_hurries_it(desk: Desk) -> None:
    await desk.answers.whole(ask())
    strict = desk.call(ask(policy=CachePolicy(max_age_s=5)))
    await desk.until(lambda: desk.model.promoted == ["request-1.refresh"])
    await refreshed(desk)
    assert how(await strict) == ("new", "join", None)


async def test_what_a_refresh_cost_is_booked_once_and_the_stale_answers_as_reused(desk: Desk) -> None:
    desk.answers.books.take()
    await desk.answers.whole(ask())
    await refreshed(desk)
    rows = {row.outcome: (row.requests, row.compute_s, row.avoided_s) for row in desk.answers.books.take()}
    assert rows == {"stale": (1, 0.0, 0.5), "refresh": (0, 0.5, 0.0)}


async def test_a_failed_refresh_harms_nobody_and_the_next_caller_starts_another(desk: Desk) -> None:
    for number, error in enumerate((GenerationFailed("broke"), TOO_LONG)):
        assert how(await desk.answers.whole(ask())) == ("old", "stale", LATE_S)
        await desk.until(lambda wanted=number + 2: len(desk.model.requests) == wanted)  # type: ignore[misc]
        desk.model.fail(error)
        await desk.until(lambda: desk.answers.flights.num_flying == 0)
    assert how(await desk.answers.whole(ask())) == ("old", "stale", LATE_S)
    assert desk.metric("frugal_cache_refreshes_total", result="failed") == 2


async def test_a_refresh_that_finds_no_room_is_left_out() -> None:
    desk = Desk(ttl_s=TTL_S, stale_while_revalidate_s=WINDOW_S, max_in_flight=1)
    await desk.asked(ask())
    desk.time += LATE_S
    busy = desk.call(ask("busy"))
    await desk.until(lambda: desk.answers.flights.num_flying == 1)
    assert (await desk.answers.whole(ask())).opening.outcome == "stale"
    desk.model.finish()
    await busy
    assert desk.metric("frugal_cache_refreshes_total", result="refused") == 1
    assert len(desk.model.requests) == 2


async def test_what_was_deleted_is_not_served_by_the_flight_that_replaces_it(desk: Desk) -> None:
    await desk.answers.whole(ask())
    desk.store.entries.clear()
    desk.answers.forget()
    caller = desk.call(ask())
    await desk.until(lambda: desk.answers.flights.num_followers == 1)
    await refreshed(desk)
    assert how(await caller) == ("new", "join", None)


@pytest.mark.parametrize(
    ("policy", "got"),
    [
        (CachePolicy(max_stale_s=10), ("old", "stale", LATE_S)),
        (CachePolicy(max_stale_s=9), None),
        (CachePolicy(max_age_s=500), None),
        (CachePolicy(no_store=True), None),
        (CachePolicy(only_if_cached=True), ("old", "stale", LATE_S)),
    ],
)
async def test_a_requests_own_word_on_stale_answers(desk: Desk, policy: CachePolicy, got: tuple[str, str, float] | None) -> None:
    if got is None:
        assert (await desk.asked(ask(policy=policy), "new")).opening.outcome == "miss"
    else:
        assert how(await desk.answers.whole(ask(policy=policy))) == got


async def test_who_wants_a_stored_answer_only_never_costs_a_generation(desk: Desk) -> None:
    desk.time += 1_000
    with pytest.raises(NotCached, match="send it without only-if-cached"):
        await desk.answers.whole(ask(policy=ONLY))
    others = desk.call(ask())
    await desk.until(lambda: len(desk.model.requests) == 2)
    with pytest.raises(NotCached):
        await desk.answers.whole(ask(policy=ONLY))
    with pytest.raises(NotCached):
        await desk.answers.whole(ask(sampling=Sampling(temperature=0.5), policy=ONLY))
    desk.model.finish()
    await others
    assert len(desk.model.requests) == 2
    assert (await desk.answers.whole(ask(policy=ONLY))).opening.outcome == "hit"


async def test_a_strict_callers_flight_does_not_keep_others_from_what_is_stored(desk: Desk) -> None:
    desk.time -= 50
    strict = desk.call(ask(policy=CachePolicy(max_age_s=5)))
    past = desk.call(ask("other", policy=CachePolicy(no_cache=True)))
    await desk.until(lambda: len(desk.model.requests) == 3)
    assert how(await desk.answers.whole(ask())) == ("old", "hit", LATE_S - 50)
    desk.model.finish(to=1)
    desk.model.finish(to=2)
    await asyncio.gather(strict, past)


@pytest.mark.parametrize("asked", [5.0, TTL_S])
async def test_a_request_says_how_long_its_answer_lives(asked: float) -> None:
    desk = Desk(ttl_s=TTL_S)
    first = await desk.asked(ask(policy=CachePolicy(ttl_s=asked)))
    assert (first.opening.replay_s, desk.store.entries[KEY].ttl_s) == (min(asked, 10), asked)
    desk.time += asked
    assert (await desk.answers.whole(ask())).opening.outcome == "hit"
    desk.time += 0.1
    assert (await desk.asked(ask())).opening.outcome == "miss"


async def test_of_two_wishes_for_one_answer_the_shorter_holds_also_after_a_refresh() -> None:
    desk = Desk(ttl_s=TTL_S, stale_while_revalidate_s=WINDOW_S)
    callers = [desk.call(ask(policy=CachePolicy(ttl_s=ttl_s))) for ttl_s in (30.0, 5.0, None)]
    await desk.model.started.wait()
    desk.model.finish()
    await asyncio.gather(*callers)
    assert desk.store.entries[KEY].ttl_s == 5
    desk.time += 6
    assert (await desk.answers.whole(ask())).opening.outcome == "stale"
    await refreshed(desk)
    assert (desk.store.entries[KEY].ttl_s, desk.store.entries[KEY].created_at) == (5, desk.time)


async def test_a_longer_time_to_live_than_there_is_is_refused(desk: Desk) -> None:
    with pytest.raises(BadRequest, match="kept for 100 s here"):
        await desk.answers.whole(ask(policy=CachePolicy(ttl_s=TTL_S + 1)))


async def test_a_models_own_time_to_live() -> None:
    desk = Desk(ttl_s=TTL_S, ttl_s_by_model={"tiny": 5.0})
    await desk.asked(ask())
    desk.time += 6
    assert (await desk.asked(ask())).opening.outcome == "miss"
    await desk.asked(ask(model="other"))
    desk.time += 6
    assert (await desk.answers.whole(ask(model="other"))).opening.outcome == "hit"


async def refused(desk: Desk, question: Ask, error: FrugalError) -> None:
    """Ask, and have the model refuse."""
    caller, num = desk.call(question), len(desk.model.requests)
    await desk.until(lambda: len(desk.model.requests) > num)
    desk.model.fail(error)
    with pytest.raises(type(error)):
        await caller


async def test_a_refusal_that_depends_on_the_request_alone_costs_the_model_nothing_for_seconds() -> None:
    desk = Desk(negative_ttl_s=5)
    await refused(desk, ask(), TOO_LONG)
    num_reads = desk.store.num_reads
    for _ in range(100):
        with pytest.raises(ContextLengthExceeded) as caught:
            await desk.answers.whole(ask())
        assert caught.value == TOO_LONG
    assert (len(desk.model.requests), desk.store.num_reads) == (1, num_reads)
    assert desk.metric("frugal_cache_refusals_replayed_total", model="tiny") == 100
    desk.time += 5.1
    assert (await desk.asked(ask())).opening.outcome == "miss"


@pytest.mark.parametrize(
    "error", [Overloaded("full", retry_after_s=1), ModelChanged("other weights"), GenerationFailed("broke"), FrugalError("a bug")]
)
async def test_what_passes_is_not_remembered(error: FrugalError) -> None:
    desk = Desk()
    await refused(desk, ask(), error)
    assert (await desk.asked(ask())).opening.outcome == "miss"


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        (CachePolicy(no_store=True), {}),
        (CachePolicy(no_cache=True), {}),
        (CachePolicy(max_age_s=0), {}),
        (CachePolicy(), {"negative_ttl_s": 0}),
    ],
)
async def test_whose_refusal_is_not_remembered(first: CachePolicy, settings: dict[str, object]) -> None:
    desk = Desk(**settings)
    await refused(desk, ask(policy=first), TOO_LONG)
    assert (await desk.asked(ask())).opening.outcome == "miss"


async def test_who_wants_nothing_stored_asks_the_model_again_and_so_does_another_question() -> None:
    desk = Desk()
    await refused(desk, ask(), TOO_LONG)
    assert (await desk.asked(ask(policy=CachePolicy(no_cache=True)))).opening.outcome == "bypass"
    assert (await desk.asked(ask("shorter"))).opening.outcome == "miss"


async def test_a_sampled_question_is_refused_from_memory_too_and_forgotten_with_the_rest() -> None:
    desk, sampled = Desk(), ask(sampling=Sampling(temperature=0.9))
    await refused(desk, sampled, TOO_LONG)
    with pytest.raises(ContextLengthExceeded):
        await desk.answers.whole(sampled)
    desk.answers.forget()
    assert (await desk.asked(sampled)).opening.outcome == "bypass"


SECONDS = st.integers(0, 12).map(float)
STEPS = st.lists(
    st.tuples(
        SECONDS,
        st.builds(
            CachePolicy,
            no_cache=st.booleans(),
            no_store=st.booleans(),
            max_age_s=st.none() | SECONDS,
            max_stale_s=st.none() | SECONDS,
            only_if_cached=st.booleans(),
            ttl_s=st.none() | st.integers(1, 10).map(float),
        ),
    ),
    max_size=12,
)


@given(STEPS)
@example([(0.0, CachePolicy()), (0.0, CachePolicy(max_age_s=0.0))])
def test_over_any_course_of_requests_nothing_is_older_than_its_reader_allows_nor_stored_against_a_wish(
    steps: list[tuple[float, CachePolicy]],
) -> None:
    async def scenario() -> None:
        desk, limits = Desk(ttl_s=10, stale_while_revalidate_s=4, max_stale_s=8), Limits(10, 4, 8)
        num_made = 0

        async def generate(_request: Generate) -> AsyncGenerator[Item, None]:
            nonlocal num_made
            num_made += 1
            yield Chunk(f"answer {num_made}", 1)
            yield finish()

        desk.answers.flights._generate = generate
        made: dict[str, float] = {}  # text -> when
        for wait_s, policy in steps:
            desk.time += wait_s
            before, stored = num_made, desk.store.entries.get(KEY)
            held = None if stored is None else Held(stored.created_at, stored.ttl_s)
            expected = decide(policy, held, limits, desk.time, live=False, shared=True)
            try:
                answer = await desk.answers.whole(ask(policy=policy))
            except NotCached:
                assert expected.state == "refuse"
            else:
                assert answer.opening.outcome == {"lead": "miss"}.get(expected.state, expected.state)
                made.setdefault(answer.text, desk.time)
                age_s = desk.time - made[answer.text]
                assert age_s == (answer.opening.age_s or 0.0)
                assert policy.max_age_s is None or age_s <= policy.max_age_s
            await desk.until(lambda: desk.answers.flights.num_flying == 0)
            assert num_made - before == (1 if expected.refresh or expected.state in ("lead", "bypass") else 0)
            now_stored = desk.store.entries.get(KEY)
            if policy.no_store:
                assert now_stored is stored
            if now_stored is not None:
                made.setdefault(now_stored.text, now_stored.created_at)
                assert now_stored.created_at == made[now_stored.text]

    asyncio.run(scenario())


async def test_a_replayed_refusal_is_an_error_of_its_own() -> None:
    """An exception that is raised twice collects the tracebacks of both."""
    desk = Desk()
    await refused(desk, ask(), TOO_LONG)
    caught = []
    for _ in range(2):
        with pytest.raises(ContextLengthExceeded) as found:
            await desk.answers.whole(ask())
        caught.append(found.value)
    assert caught[0] is not caught[1]
