"""A hundred feeds for ten days, by the clock of the test: what the database and the process hold does not grow with time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tracemalloc

import pytest
from sqlalchemy import func, select

from serve_app.feeds.loop import FeedsLoop
from serve_app.messages_feeds import Feed
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database
from serve_app.store.schema import articles, results
from tests.fast.fakes_feeds import Clock, FakeAnswerer, FakeFetcher, settings_for, until

NUM_FEEDS = 100
HOUR_S, DAY_S = 3600.0, 86_400.0
WINDOW = 5  # entries that a feed shows; each has one more per day


@pytest.fixture
def settings() -> FeedsSettings:
    return settings_for(*(f"https://site{number}.test/feed" for number in range(NUM_FEEDS)), max_checks=64, max_in_flight=64)


async def test_a_hundred_feeds_over_ten_days_leave_one_row_per_article_and_no_memory_behind(
    database: Database, settings: FeedsSettings
) -> None:
    store, clock, fetcher, model = ArticleStore(database), Clock(1_800_000_000.0), FakeFetcher(), FakeAnswerer()
    loop = FeedsLoop(store, fetcher, model, Metrics(), "me", clock, settings, idle_wait_s=0.02, jitter=lambda: 0.5)
    task, held, polls = asyncio.create_task(loop.run()), list[int](), list[int]()
    tracemalloc.start()
    for day in range(10):
        for entry in settings.feeds:
            feed = fetcher.publish(entry.url).entry(f"{day}", f"Day {day} of {entry.url}")
            feed.items = dict(list(feed.items.items())[-WINDOW:])
        for _quarter in range(4):
            clock.pass_s(6 * HOUR_S)
            store.lease("feeds", "me", clock(), 10.0)  # a quarter of a day is longer than a lease
            loop.wake()
            await until(lambda: not store.due_feeds(clock()) and idle(store.feeds()), timeout_s=60.0)
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        polls.append(len(fetcher.asked))
    tracemalloc.stop()
    await loop.stop()
    assert task.done()
    with database.read() as connection:
        rows = [connection.scalar(select(func.count()).select_from(table)) for table in (articles, results)]
    assert rows == [10 * NUM_FEEDS, 10 * NUM_FEEDS]
    assert len(model.asked) == 10 * NUM_FEEDS
    assert held[-1] - held[4] < 1_000_000, held
    daily = [later - earlier for earlier, later in itertools.pairwise(polls)]
    assert max(daily[4:]) <= 4 * NUM_FEEDS, "no feed is asked more often than its interval"


def idle(feeds: tuple[Feed, ...]) -> bool:
    """All were checked and nothing waits for the model."""
    return len(feeds) == NUM_FEEDS and all(feed.state == "ok" and not dict(feed.num_articles).get("pending") for feed in feeds)
