"""What Ingress may replay without asking: only what AnswerCache allowed, only as long, only to who may have it; and it is in the books."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.cache.replays import Replays, as_items
from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import Answer, Ask, CachePolicy, Chunk, Item, Opening, Sampling
from serve_app.metrics import Metrics
from tests.fast.fakes import ask, finish

ALLOWED = Answer(Opening("miss", "key", replay_s=10.0), "Paris", finish())


class Desk:
    """Replays with a clock that the test moves."""

    def __init__(self, max_bytes: int = 100_000) -> None:
        self.now = 1_000_000.0
        self.replays = Replays(max_bytes, Metrics(), lambda: self.now)

    def found(self, question: Ask) -> str | None:
        answer = self.replays.find(question)
        return answer.text if answer is not None else None


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_answer_is_replayed_as_a_hit_with_its_age_until_its_time_is_over(desk: Desk) -> None:
    desk.replays.keep(ask(), ALLOWED)
    desk.now += 9
    assert desk.replays.find(ask()) == Answer(Opening("hit", "key", 9.0, 10.0), "Paris", finish())
    desk.now += 1
    assert desk.replays.find(ask()) is None


def test_the_age_of_a_stored_answer_goes_on(desk: Desk) -> None:
    desk.replays.keep(ask(), replace(ALLOWED, opening=Opening("hit", "key", 100.0, 10.0)))
    desk.now += 5
    found = desk.replays.find(ask())
    assert found is not None
    assert found.opening.age_s == 105.0


@pytest.mark.parametrize(
    "answer",
    [replace(ALLOWED, opening=Opening("miss", "key")), replace(ALLOWED, finish=finish(reason="cancelled"))],
    ids=["not allowed", "given up"],
)
def test_what_may_not_be_replayed_is_not_kept(desk: Desk, answer: Answer) -> None:
    desk.replays.keep(ask(), answer)
    assert desk.found(ask()) is None


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (CachePolicy(), "Paris"),
        (CachePolicy(no_store=True), "Paris"),
        (CachePolicy(no_cache=True), None),
        (CachePolicy(max_age_s=5), "Paris"),
        (CachePolicy(max_age_s=4), None),
        (CachePolicy(max_age_s=0), None),
        (CachePolicy(only_if_cached=True), "Paris"),
        (CachePolicy(only_if_cached=True, no_cache=True), None),
        (CachePolicy(max_stale_s=0), "Paris"),
        (CachePolicy(min_fresh_s=5), "Paris"),  # of the ten seconds that are known here, five are left
        (CachePolicy(min_fresh_s=6), None),  # AnswerCache knows more
        (CachePolicy(ttl_s=1), "Paris"),  # is for what is stored
    ],
)
def test_a_callers_wishes_hold_here_too(desk: Desk, policy: CachePolicy, text: str | None) -> None:
    desk.replays.keep(ask(), ALLOWED)
    desk.now += 5
    assert desk.found(ask(policy=policy)) == text


def test_nothing_stale_is_replayed_also_for_those_who_would_take_it(desk: Desk) -> None:
    desk.replays.keep(ask(), ALLOWED)
    desk.replays.keep(ask("late"), replace(ALLOWED, opening=Opening("stale", "key", 100.0)))
    desk.now += 11
    policy = CachePolicy(max_stale_s=100)
    assert (desk.found(ask(policy=policy)), desk.found(ask("late", policy=policy))) == (None, None)


def test_a_sampled_answer_that_one_caller_shares_reaches_no_other(desk: Desk) -> None:
    sampled = ask(sampling=Sampling(temperature=0.9), policy=CachePolicy(sampled_always=True))
    desk.replays.keep(sampled, ALLOWED)
    assert (desk.found(sampled), desk.found(replace(sampled, policy=CachePolicy()))) == (None, None)


def test_another_scope_is_another_question(desk: Desk) -> None:
    desk.replays.keep(replace(ask(), scope="a"), ALLOWED)
    assert [desk.found(replace(ask(), scope=scope)) for scope in ("a", "b", "")] == ["Paris", None, None]


def test_a_new_answer_takes_the_place_of_the_old_one(desk: Desk) -> None:
    desk.replays.keep(ask(), ALLOWED)
    desk.replays.keep(ask(), replace(ALLOWED, text="Lyon"))
    assert desk.found(ask()) == "Lyon"


def test_memory_is_bounded_and_the_least_used_goes() -> None:
    desk = Desk(max_bytes=3_500)
    for text in ("one", "two", "three"):
        desk.replays.keep(ask(text), replace(ALLOWED, text=text))
    assert desk.found(ask("one")) == "one"
    desk.replays.keep(ask("four"), replace(ALLOWED, text="four"))
    desk.replays.keep(ask("huge"), replace(ALLOWED, text="x" * 4_000))
    assert [desk.found(ask(text)) for text in ("one", "two", "three", "four", "huge")] == ["one", None, "three", "four", None]


async def test_a_stream_is_remembered_at_its_good_ending_and_comes_again_as_a_stream(desk: Desk) -> None:
    async def items(*, whole: bool) -> object:
        for item in (ALLOWED.opening, Chunk("Par", 1), Chunk("is", 1), *([finish()] if whole else [])):
            yield item

    assert [item async for item in desk.replays.noted(ask(), items(whole=False))] == [ALLOWED.opening, Chunk("Par", 1), Chunk("is", 1)]  # type: ignore[arg-type]
    assert desk.found(ask()) is None
    async for _ in desk.replays.noted(ask(), items(whole=True)):  # type: ignore[arg-type]
        pass
    found = desk.replays.find(ask())
    assert found is not None
    expected: tuple[Item, ...] = (Opening("hit", "key", 0.0, 10.0), Chunk("Paris", 2), finish())
    assert as_items(found) == expected


async def test_log_probabilities_are_replayed_too(desk: Desk) -> None:
    told = tuple(TokenLogprob(Candidate(word, -1.0), (), at) for at, word in ((0, b"Par"), (3, b"is")))

    async def items() -> AsyncIterator[Item]:
        for item in (ALLOWED.opening, Chunk("Par", 1, told[:1]), Chunk("is", 1, told[1:]), finish()):
            yield item

    async for _ in desk.replays.noted(ask(), items()):
        pass
    found = desk.replays.find(ask())
    assert found is not None
    assert as_items(found)[1] == Chunk("Paris", 2, told)


def test_log_probabilities_count_as_memory() -> None:
    desk = Desk(max_bytes=3_500)
    best = (Candidate(b"x", -1.0),) * 20
    desk.replays.keep(ask(), replace(ALLOWED, logprobs=(TokenLogprob(best[0], best),)))
    assert desk.found(ask()) is None


def test_every_replay_is_a_hit_in_the_books(desk: Desk) -> None:
    desk.replays.keep(ask(), ALLOWED)
    desk.found(ask())
    desk.found(ask())
    desk.found(ask("something else"))
    (row,) = desk.replays.books.take()
    assert (row.outcome, row.ending, row.requests, row.avoided_s) == ("hit", "stop", 2, 2 * finish().compute_s)
