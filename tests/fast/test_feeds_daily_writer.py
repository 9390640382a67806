"""Daily digests are written once, whatever breaks on the way, and those that cannot be written say so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from serve_app.errors import ContextLengthExceeded, FrugalError, GenerationFailed, Overloaded, Unavailable
from serve_app.feeds.daily_writer import SETTLE_S, DailyWriter
from serve_app.messages import Answer, Message
from serve_app.messages_feeds import DailyDigest, DailyQuery
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.daily import DailyStore
from serve_app.store.database import Database
from tests.contract_store.makers import ME, article, summary, with_articles
from tests.fast.fakes_feeds import Clock, answer, settings_for, until

DAY_S = 86_400.0
NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC
SEVEN = NOON - 5 * 3600


class World:
    """A store with the articles of some days, a clock, and a model that answers, refuses or hangs."""

    def __init__(self, database: Database) -> None:
        self.articles, self.store, self.clock, self.metrics = ArticleStore(database), DailyStore(database), Clock(NOON), Metrics()
        assert self.articles.lease(LEASE, ME, 0.0, 1e12)
        self.asked: list[tuple[int, str]] = []
        self.errors: list[BaseException] = []
        self.next = answer("It was quiet.")
        self.gate = asyncio.Event()
        self.gate.set()
        self.writer: DailyWriter

    def summarised(self, *guids: str, at: float = SEVEN - 60) -> None:
        """Articles whose summaries were stored then."""
        made = [article(guid, text_hash=guid) for guid in guids]
        with_articles(self.articles, *made)
        for one in made:
            assert self.articles.record_result(ME, one.id, one.text_hash, replace(summary(f"About {one.guid}."), created_at=at))

    async def ask(self, digest: DailyDigest, messages: tuple[Message, ...], settings: FeedsSettings) -> Answer:
        self.asked.append((digest.attempts, messages[-1].content))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return self.next

    @contextlib.asynccontextmanager
    async def writing(self, *tags: str, holder: str = ME, **values: Any) -> AsyncIterator[asyncio.Task[None]]:
        settings = settings_for(digest={"tags": tags, **values}, retry_base_s=30, max_attempts=3)
        self.writer = DailyWriter(self.store, self.ask, self.metrics, holder, self.clock, settings, model="m", idle_wait_s=0.01)
        task = asyncio.create_task(self.writer.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def digests(self) -> dict[tuple[str, str], DailyDigest]:
        return {(digest.date, digest.tag): digest for digest in self.store.query(DailyQuery(limit=100)).digests}

    def one(self) -> DailyDigest:
        (digest,) = self.digests().values()
        return digest

    async def until_state(self, state: str) -> None:
        await until(lambda: [digest.state for digest in self.digests().values()] == [state])

    async def rounds(self) -> None:
        """Let the writer go round a few times, so that what it should not do had its chance."""
        reads = self.clock.num_reads
        await until(lambda: self.clock.num_reads >= reads + 12)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


async def test_when_a_day_is_over_one_answer_is_stored_about_its_articles(world: World) -> None:
    world.summarised("a", "b")
    world.summarised("old", at=SEVEN - DAY_S - 1)
    world.summarised("new", at=SEVEN)
    async with world.writing("*"):
        await world.until_state("done")
        await world.rounds()
    ids = tuple(article(guid).id for guid in ("a", "b"))
    digest = world.one()
    assert sorted(digest.article_ids) == sorted(ids)
    assert replace(digest, article_ids=()) == DailyDigest(
        "2027-01-15", "*", "done", "It was quiet.", (), None, 0, None, "m", 50, 9, 2.0, 0.002, NOON
    )
    ((_attempts, content),) = world.asked
    assert "\nAbout a: About a.\n" in content
    assert "About old" not in content
    assert "About new" not in content


async def test_each_day_gets_its_own_and_none_before_it_is_over(world: World) -> None:
    world.summarised("a")
    world.summarised("b", at=SEVEN + 60)
    async with world.writing("*"):
        await world.until_state("done")
        world.clock.now = SEVEN + DAY_S + SETTLE_S - 1
        await world.rounds()
        assert len(world.asked) == 1
        world.clock.pass_s(1)
        await until(lambda: len(world.digests()) == 2)
        await until(lambda: {digest.state for digest in world.digests().values()} == {"done"})
    assert [date for date, _tag in world.digests()] == ["2027-01-16", "2027-01-15"]
    assert "About b" in world.asked[1][1]


async def test_after_a_downtime_only_the_last_day_is_made_up_for(world: World) -> None:
    for days in range(7):
        world.summarised(f"d{days}", at=SEVEN - days * DAY_S - 60)
    async with world.writing("*"):
        await world.until_state("done")
        await world.rounds()
    assert (list(world.digests()), len(world.asked)) == ([("2027-01-15", "*")], 1)


async def test_a_day_without_articles_asks_nobody_and_is_not_looked_at_again(world: World) -> None:
    async with world.writing("*", "ai"):
        await world.rounds()
        world.summarised("late", at=SEVEN - 60)
        await world.rounds()
    assert (world.asked, world.digests()) == ([], {})
    assert "frugal_daily_digests_total" in str(world.metrics.snapshot("Feeds", "one"))


@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=7.0), Unavailable("loading", retry_after_s=7.0)])
async def test_where_the_graph_is_the_reason_no_try_is_counted(world: World, error: FrugalError) -> None:
    world.summarised("a")
    world.errors = [error] * 9
    async with world.writing("*"):
        for number in range(1, 10):
            await until(lambda number=number: len(world.asked) == number)  # type: ignore[misc]
            await until(lambda: (world.one().reason, world.one().next_try_at) == (error.message, world.clock.now + 7.0))
            world.clock.pass_s(7.0)
        await world.until_state("done")
    assert {attempts for attempts, _content in world.asked} == {0}


@pytest.mark.parametrize("bad", ["empty", "error", "bug"])
async def test_a_failing_model_is_asked_again_less_and_less_and_then_it_says_failed(world: World, bad: str) -> None:
    world.summarised("a")
    if bad == "empty":
        world.next = answer(" ... ")
    else:
        world.errors = [GenerationFailed("out of memory") if bad == "error" else KeyError("bug") for _ in range(3)]
    async with world.writing("*"):
        for attempts, wait_s in ((1, 30.0), (2, 60.0)):
            await until(lambda attempts=attempts: world.digests() != {} and world.one().attempts == attempts)  # type: ignore[misc]
            assert world.one().next_try_at == world.clock.now + wait_s
            world.clock.pass_s(wait_s)
        await world.until_state("failed")
        await world.rounds()
    assert [attempts for attempts, _content in world.asked] == [0, 1, 2]
    reason = {"empty": "the model answered only '...'", "error": "out of memory", "bug": "unexpected error (KeyError)"}[bad]
    assert world.one().reason is not None
    assert reason in (world.one().reason or "")
    assert (world.one().text, world.one().next_try_at) == ("", None)


async def test_a_question_too_long_for_the_model_is_asked_about_fewer_articles(world: World) -> None:
    world.summarised(*(f"number {number} of the many articles of this day" for number in range(40)))
    world.errors = [ContextLengthExceeded("too long"), ContextLengthExceeded("too long")]
    async with world.writing("*", max_words=400):
        await world.until_state("done")
    lengths = [content.count(": About ") for _attempts, content in world.asked]
    assert lengths[0] > lengths[1] > lengths[2] == len(world.one().article_ids)


async def test_one_that_is_too_long_however_short_fails_at_once(world: World) -> None:
    world.summarised("a")
    world.errors = [ContextLengthExceeded("too long") for _ in range(9)]
    async with world.writing("*"):
        await world.until_state("failed")
    assert (len(world.asked), world.one().reason) == (1, "too long")


async def test_killed_in_the_middle_it_is_asked_again_and_stored_once(world: World) -> None:
    world.summarised("a")
    world.gate.clear()
    async with world.writing("*"):
        await until(lambda: len(world.asked) == 1)
    assert world.one().state == "pending"
    world.gate.set()
    async with world.writing("*"):
        await world.until_state("done")
        await world.rounds()
    assert len(world.asked) == 2


async def test_an_answer_that_was_given_up_is_none(world: World) -> None:
    world.summarised("a")
    world.errors = [asyncio.CancelledError()]
    async with world.writing("*"):
        await until(lambda: len(world.asked) == 1)
        await until(lambda: "given up" in (world.one().reason or ""))
        given_up = replace(world.next, finish=replace(world.next.finish, reason="cancelled"))
        world.next = given_up
        world.clock.pass_s(5.0)
        await until(lambda: len(world.asked) == 2)
        world.next = answer("It was quiet.")
        await until(lambda: "before its end" in (world.one().reason or ""))
        world.clock.pass_s(5.0)
        await world.until_state("done")


async def test_other_settings_count_at_once(world: World) -> None:
    world.summarised("a")
    async with world.writing():
        await world.rounds()
        assert world.digests() == {}
        world.writer.reconfigure(settings_for(digest={"tags": ("*",)}))
        await world.until_state("done")


async def test_one_that_came_out_of_the_cache_cost_nothing(world: World) -> None:
    world.summarised("a")
    world.next = answer("It was quiet.", outcome="hit")
    async with world.writing("*"):
        await world.until_state("done")
    assert (world.one().compute_s, world.one().cost_usd, world.one().completion_tokens) == (0.0, 0.0, 9)


async def test_who_loses_the_lease_stops_writing(world: World) -> None:
    world.summarised("a")
    world.gate.clear()
    async with world.writing("*") as task:
        await until(lambda: len(world.asked) == 1)
        world.articles.release(LEASE, ME)
        assert world.articles.lease(LEASE, "another", 0.0, 1e12)
        world.gate.set()
        with pytest.raises(LeaseLost):
            await task
    assert world.one().state == "pending"


async def test_a_bug_in_here_stops_neither_the_digests_nor_the_feeds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.summarised("a")
    due, bugs = world.store.due, [KeyError("bug")]

    def breaks_once(*args: Any) -> tuple[DailyDigest, ...]:
        if bugs:
            raise bugs.pop()
        return due(*args)

    monkeypatch.setattr(world.store, "due", breaks_once)
    async with world.writing("*"):
        await world.until_state("done")
    assert bugs == []
