"""The loop with a real store, a fake network and a fake model: everything is summarised once, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from serve_app.errors import BadRequest, Cancelled, ContextLengthExceeded, FetchError, GenerationFailed, Overloaded, Unavailable
from serve_app.feeds.loop import FeedsLoop
from serve_app.messages_feeds import Article, ArticleQuery, Feed, Summary
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedEntry, FeedsSettings
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from tests.fast.fakes_feeds import Clock, FakeAnswerer, FakeFetcher, answer, settings_for, until

URL, OTHER = "https://feed.test/rss", "https://other.test/rss"


@pytest.fixture
def store(database: Database) -> ArticleStore:
    return ArticleStore(database)


class World:
    """A store, a clock, a network and a model; `running` runs a loop over them."""

    def __init__(self, store: ArticleStore) -> None:
        self.store, self.clock, self.fetcher, self.model, self.metrics = store, Clock(), FakeFetcher(), FakeAnswerer(), Metrics()

    def loop(self, settings: FeedsSettings, holder: str = "me") -> FeedsLoop:
        return FeedsLoop(self.store, self.fetcher, self.model, self.metrics, holder, self.clock, settings, model="m", idle_wait_s=0.01)

    @contextlib.asynccontextmanager
    async def running(self, settings: FeedsSettings, holder: str = "me") -> AsyncIterator[FeedsLoop]:
        loop = self.loop(settings, holder)
        task = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            await loop.stop()
            assert task.done()

    def articles(self) -> dict[str, Article]:
        return {article.guid: article for article in self.store.query(ArticleQuery(limit=1000)).articles}

    def states(self) -> dict[str, str]:
        return {guid: article.state for guid, article in sorted(self.articles().items())}

    def feed(self, url: str = URL) -> Feed:
        return self.store.feed(feed_id(url))

    async def rounds(self) -> None:
        """Let the loop go round a few times, so that what it should not do had its chance."""
        reads = self.clock.num_reads
        await until(lambda: self.clock.num_reads >= reads + 12)

    async def until_states(self, **states: str) -> None:
        await until(lambda: self.states() == states)


@pytest.fixture
def world(store: ArticleStore) -> World:
    return World(store)


async def test_a_feed_is_fetched_and_its_articles_are_summarised(world: World) -> None:
    world.fetcher.publish(URL).entry("a").entry("b").entry("short", text="two words")
    settings = settings_for(URL)
    async with world.running(settings) as loop:
        await world.until_states(a="done", b="done", short="skipped")
        assert loop.alive()
    article = world.articles()["a"]
    assert article.summary == Summary(
        "A faster scheduler came out.",
        "m",
        "2",
        settings.summary.template,
        article.text_hash,
        "miss",
        50,
        9,
        2.0,
        0.002,
        world.clock(),
        headline="A faster scheduler came out.",
    )
    assert sorted(world.model.asked) == ["About a", "About b"]
    assert not loop.alive()


async def test_a_summary_has_its_line_its_tags_and_what_the_article_bears_out(world: World) -> None:
    world.fetcher.publish(URL).entry("a", text="The scheduler of Ray 2.60 is out and many times as quick as the one before it was.")
    world.model.next = answer("Headline: Quick Ray\nSummary: A scheduler for Ray 2.60 came from Berlin. It is quick.\nTags: Ray, news")
    async with world.running(settings_for(URL, summary={"tags": ("Scheduling", "Ray")})):
        await world.until_states(a="done")
    made = world.articles()["a"].summary
    assert made is not None
    assert (made.headline, made.text) == ("Quick Ray", "A scheduler for Ray 2.60 came from Berlin. It is quick.")
    assert (made.tags, made.tags_from) == (("Ray",), "model")
    assert made.grounding == pytest.approx(2 / 3)
    assert made.missing == ("Berlin",)


async def test_an_answer_that_is_no_summary_is_asked_for_again(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    world.model.next = answer("I'm sorry, but I cannot do that.")
    async with world.running(settings_for(URL, max_attempts=2, retry_base_s=1.0)):
        await until(lambda: world.states() == {"a": "failed"})
        assert (world.articles()["a"].reason or "").startswith("the model refused")
        world.model.next = answer()
        world.clock.pass_s(2)
        await world.until_states(a="done")


async def test_a_long_article_is_summarised_in_parts_and_then_as_a_whole(world: World) -> None:
    text = " ".join(f"Sentence number {number} tells a little more than the one before." for number in range(30))
    world.fetcher.publish(URL).entry("a", text=text)
    async with world.running(settings_for(URL, summary={"max_words": 120, "long_articles": "map_reduce"})):
        await world.until_states(a="done")
    *parts, whole = world.model.texts
    assert " ".join(parts) == text
    assert len(parts) == 3
    assert whole == "\n".join(["A faster scheduler came out."] * 3)
    made = world.articles()["a"].summary
    assert made is not None
    assert (made.prompt_tokens, made.completion_tokens, made.compute_s) == (200, 36, 8.0)
    assert made.cost_usd == pytest.approx(0.008)


async def test_without_that_setting_it_is_cut_and_costs_one_call(world: World) -> None:
    world.fetcher.publish(URL).entry("a", text="One sentence more. " * 300)
    async with world.running(settings_for(URL)):
        await world.until_states(a="done")
    assert len(world.model.asked) == 1


async def test_a_part_that_is_no_summary_fails_the_article_and_is_asked_for_again(world: World) -> None:
    world.fetcher.publish(URL).entry("a", text="One sentence more. " * 100)
    world.model.next = answer("...")
    async with world.running(settings_for(URL, summary={"max_words": 120, "long_articles": "map_reduce"})):
        await until(lambda: world.states() == {"a": "failed"})
    assert world.articles()["a"].reason == "the model answered only '...'"


async def test_the_next_try_asks_for_parts_as_before_and_only_for_a_bad_one_in_another_way(world: World) -> None:
    world.fetcher.publish(URL).entry("a", text="One sentence more. " * 100)
    settings = settings_for(URL, summary={"max_words": 120, "long_articles": "map_reduce"}, retry_base_s=1.0)
    world.model.errors = [GenerationFailed("no summary"), GenerationFailed("no summary again")]
    async with world.running(settings):
        await until(lambda: world.states() == {"a": "failed"})
        world.clock.pass_s(2)
        await world.until_states(a="done")
    assert world.model.attempts == [0, 0, 1, 0, 0, 1]  # a part; it again, and in another way; two more parts; the whole


async def test_a_feed_has_its_own_prompt_and_language(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    own = FeedEntry(url=URL, prompt="Why? {title} {text}", language="German")
    async with world.running(settings_for(URL).model_copy(update={"feeds": (own,)})):
        await world.until_states(a="done")
    made = world.articles()["a"].summary
    assert made is not None
    assert world.model.prompts == [made.prompt_template] == ["Answer in German. Why? {title} {text}"]


@pytest.mark.parametrize("outcome", ["hit", "join"])
async def test_an_answer_that_was_not_made_for_it_costs_an_article_nothing(world: World, outcome: str) -> None:
    world.fetcher.publish(URL).entry("a")
    world.model.next = answer(outcome=outcome)  # type: ignore[arg-type]
    async with world.running(settings_for(URL)):
        await world.until_states(a="done")
    summary = world.articles()["a"].summary
    assert summary is not None
    assert (summary.cache, summary.compute_s, summary.cost_usd, summary.prompt_tokens) == (outcome, 0.0, 0.0, 50)


async def test_slots_refill_one_by_one_and_are_never_more_than_allowed(world: World) -> None:
    feed = world.fetcher.publish(URL)
    for number in range(20):
        feed.entry(f"e{number}")
    world.model.hold()
    async with world.running(settings_for(URL, max_in_flight=3)):
        await until(lambda: world.model.num_live == 3)
        world.model.let_go()
        await until(lambda: set(world.states().values()) == {"done"})
    assert world.model.max_live == 3
    assert len(world.model.asked) == 20


async def test_at_a_stop_what_was_begun_ends_and_nothing_more_begins(world: World) -> None:
    feed = world.fetcher.publish(URL)
    for number in range(20):
        feed.entry(f"e{number}")
    world.model.hold()
    async with world.running(settings_for(URL, max_in_flight=3)) as loop:
        await until(lambda: world.model.num_live == 3)
        loop.rest()
        world.model.let_go()
        await until(lambda: list(world.states().values()).count("done") == 3)
        await world.rounds()
    assert len(world.model.asked) == 3
    assert list(world.states().values()).count("pending") == 17


async def test_killed_in_the_middle_a_new_loop_finishes_everything_with_one_result_each(world: World) -> None:
    feed = world.fetcher.publish(URL)
    for number in range(6):
        feed.entry(f"e{number}")
    world.model.hold()
    task = asyncio.create_task(world.loop(settings_for(URL, max_in_flight=2), "first").run())
    await until(lambda: world.model.num_live == 2)
    task.cancel()  # as a killed process: the lease is not released
    await asyncio.gather(task, return_exceptions=True)
    assert {(article.state, article.reason) for article in world.articles().values()} == {("pending", None)}
    world.model.let_go()
    async with world.running(settings_for(URL), "second"):
        await world.rounds()
        assert len(world.model.asked) == 2
        world.clock.pass_s(11)
        await until(lambda: set(world.states().values()) == {"done"})
    assert len(world.model.asked) == 8
    assert all(article.summary is not None for article in world.articles().values())
    assert world.fetcher.asked == [(URL, None)]


@pytest.mark.parametrize(
    "error", [Overloaded("full", retry_after_s=7.0), Unavailable("loading", retry_after_s=7.0), Cancelled("stopping", retry_after_s=7.0)]
)
async def test_a_busy_graph_costs_no_attempt_and_holds_all_articles_back(world: World, error: Exception) -> None:
    world.fetcher.publish(URL).entry("a").entry("b").entry("c")
    world.model.errors = [error]
    async with world.running(settings_for(URL, max_in_flight=1)):
        await until(lambda: any(article.reason == str(error) for article in world.articles().values()))
        assert world.states() == {"a": "pending", "b": "pending", "c": "pending"}
        world.clock.pass_s(6.9)
        await world.rounds()
        assert len(world.model.asked) == 1
        world.clock.pass_s(0.2)
        await world.until_states(a="done", b="done", c="done")
    assert [article.attempts for article in world.articles().values()] == [0, 0, 0]


async def test_an_article_that_keeps_failing_backs_off_and_ends_with_a_reason_while_others_go_on(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    world.model.always = GenerationFailed("the engine broke")
    async with world.running(settings_for(URL, max_attempts=3, retry_base_s=30.0)) as loop:
        await until(lambda: len(world.model.asked) == 1 and world.articles()["a"].attempts == 1)
        assert world.articles()["a"].next_try_at == world.clock() + 30
        world.clock.pass_s(30)
        await until(lambda: world.articles()["a"].attempts == 2)
        assert world.articles()["a"].next_try_at == world.clock() + 60
        world.clock.pass_s(60)
        await until(lambda: world.articles()["a"].attempts == 3)
        failed = world.articles()["a"]
        assert (failed.state, failed.reason, failed.next_try_at) == ("failed", "the engine broke", None)
        world.model.always = None
        world.clock.pass_s(1_000)
        world.fetcher.publish(URL).entry("b")
        world.store.refresh(feed_id(URL), world.clock())
        loop.wake()
        await world.until_states(a="failed", b="done")
        world.store.retry_article(failed.id, world.clock())
        loop.wake()
        await world.until_states(a="done", b="done")


async def test_an_article_that_does_not_fit_fails_at_once(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    world.model.always = ContextLengthExceeded("the article does not fit")
    async with world.running(settings_for(URL)):
        await world.until_states(a="failed")
    article = world.articles()["a"]
    assert (article.reason, article.attempts, article.next_try_at) == ("the article does not fit", 1, None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError(), "unexpected error (ZeroDivisionError); the log has the cause"),
        (BadRequest("no such model"), "no such model"),
        (None, "the model answered only '...'"),
    ],
)
async def test_odd_errors_and_empty_answers_are_failed_tries_and_not_the_end(world: World, error: Exception | None, reason: str) -> None:
    world.fetcher.publish(URL).entry("a")
    world.model.errors = [error] if error else []
    world.model.next = answer(" ... ")
    async with world.running(settings_for(URL)):
        await world.until_states(a="failed")
        assert (world.articles()["a"].reason, world.articles()["a"].attempts) == (reason, 1)
        world.model.next = answer()
        world.clock.pass_s(30)
        await world.until_states(a="done")


async def test_an_ask_that_the_graph_cancels_is_asked_again(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    world.model.errors = [asyncio.CancelledError()]
    async with world.running(settings_for(URL)):
        await until(lambda: len(world.model.asked) == 1 and world.articles()["a"].reason is not None)
        world.clock.pass_s(5)
        await world.until_states(a="done")
    assert world.articles()["a"].attempts == 0


async def test_one_bad_feed_leaves_the_others_alone(world: World) -> None:
    world.fetcher.fail(URL, FetchError("the name feed.test cannot be resolved"))
    world.fetcher.fail("https://third.test/", RuntimeError("odd"))
    world.fetcher.publish(OTHER).entry("a")
    async with world.running(settings_for(URL, "https://third.test/", OTHER)):
        await world.until_states(a="done")
        await until(lambda: world.feed().state == world.feed("https://third.test/").state == "failing")
    feed = world.feed()
    assert (feed.state, feed.last_error, feed.last_check_at) == ("failing", "the name feed.test cannot be resolved", world.clock())
    assert feed.next_check_at >= world.clock() + 3600
    assert world.feed("https://third.test/").last_error == "internal error (RuntimeError); the log has the cause"


async def test_one_host_is_asked_for_one_feed_at_a_time_and_keeps_no_other_waiting(world: World) -> None:
    urls = [f"https://feed.test/{number}" for number in range(5)]
    for url in urls:
        world.fetcher.hang(url)
    world.fetcher.publish(OTHER).entry("a")
    async with world.running(settings_for(*urls, OTHER, max_checks=2)):
        await world.until_states(a="done")
        await world.rounds()
    asked = [url for url, _etag in world.fetcher.asked]
    assert (len(asked), OTHER in asked) == (2, True)


async def test_a_host_that_was_just_asked_is_left_alone_for_its_gap(world: World) -> None:
    urls = [f"https://feed.test/{number}" for number in range(3)]
    for url in urls:
        world.fetcher.publish(url)
    world.fetcher.gaps["feed.test"] = 60.0
    async with world.running(settings_for(*urls)):
        await world.rounds()
        assert world.fetcher.asked == []
        world.fetcher.gaps.clear()
        await until(lambda: len(world.fetcher.asked) == 3)


async def test_added_feeds_and_other_settings_are_taken_up_when_woken(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    world.fetcher.publish(OTHER).entry("b")
    async with world.running(settings_for(URL)) as loop:
        await world.until_states(a="done")
        loop.reconfigure(settings_for(OTHER))
        await world.until_states(a="done", b="done")
        assert world.feed().state == "paused"
        world.store.add_feed(URL, world.clock())
        world.fetcher.publish(URL).entry("c")
        loop.wake()
        await world.until_states(a="done", b="done", c="done")


async def test_a_feed_that_was_refused_is_looked_at_again_once_it_is_allowed(world: World) -> None:
    world.fetcher.fail(URL, FetchError("private"))
    async with world.running(settings_for(URL)) as loop:
        await until(lambda: bool(world.store.feeds()) and world.feed().state == "failing")
        world.fetcher.publish(URL).entry("a")
        loop.reconfigure(settings_for(URL, allow_private_hosts=("feed.test",)))
        await world.until_states(a="done")


async def test_a_stop_during_the_first_check_leaves_it_to_the_next_start(world: World) -> None:
    world.fetcher.hang(URL)
    async with world.running(settings_for(URL)):
        await world.fetcher.arrived.wait()
    assert [feed.url for feed in world.store.due_feeds(world.clock())] == [URL]


async def test_a_restart_asks_no_server_before_its_time(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    async with world.running(settings_for(URL)):
        await world.until_states(a="done")
    async with world.running(settings_for(URL)):
        await world.rounds()
    assert len(world.fetcher.asked) == 1
    world.clock.pass_s(90_000)
    async with world.running(settings_for(URL)):
        await until(lambda: len(world.fetcher.asked) == 2)


async def test_a_second_replica_waits_and_takes_over_at_once_when_the_first_stops(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    async with world.running(settings_for(URL), "second"):
        await world.until_states(a="done")
        third = world.loop(settings_for(URL), "third")
        task = asyncio.create_task(third.run())
        await until(third.alive)
        assert not world.store.lease(LEASE, "fourth", world.clock(), 10.0)
        world.fetcher.publish(URL).entry("b")
        world.store.refresh(feed_id(URL), world.clock())
    # no time has passed, so only a released lease can have let the third one in
    await world.until_states(a="done", b="done")
    await third.stop()
    assert task.done()


async def test_a_replica_that_lost_the_lease_stops_writing_and_waits_for_it(world: World) -> None:
    world.fetcher.publish(URL).entry("a")
    world.model.hold()
    async with world.running(settings_for(URL), "first"):
        await until(lambda: world.model.num_live == 1)
        world.clock.pass_s(11)  # as if it had been paused
        assert world.store.lease(LEASE, "successor", world.clock(), 10.0)
        world.model.let_go()
        await until(lambda: world.model.num_live == 0)
        await world.rounds()
        assert world.states() == {"a": "pending"}
        world.store.release(LEASE, "successor")
        await world.until_states(a="done")


async def test_a_feed_that_a_person_paused_rests_and_what_its_hub_sends_is_dropped(world: World) -> None:
    feed = world.fetcher.publish(URL).entry("a")
    async with world.running(settings_for(URL)) as loop:
        await world.until_states(a="done")
        (known,) = world.store.feeds()
        world.store.change_feed(known.id, {}, True)
        await loop.take(known.id, feed.entry("b").body(), "application/rss+xml")
        world.clock.pass_s(10 * 86_400)
        loop.wake()
        await world.rounds()
        assert (world.states(), len(world.fetcher.asked)) == ({"a": "done"}, 1)
        world.store.change_feed(known.id, {}, False)
        loop.wake()
        await world.until_states(a="done", b="done")
