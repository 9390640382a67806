"""Real feeds as they grew: every published version, one per check, over HTTP, through the loop and the answer cache to a fake model.

What is asked of the model is one summary per text that was ever published, whatever happened to ids, templates and dates.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections import Counter
from collections.abc import AsyncGenerator

import pytest

from serve_app.cache.answers import Answers
from serve_app.feeds.fetch import Fetcher
from serve_app.feeds.loop import FeedsLoop
from serve_app.feeds.parse import Entry, ParsedFeed, parse
from serve_app.feeds.prompt import question
from serve_app.messages import Answer, Ask, Chunk, Finish, Generate, Item, Sampling, Usage
from serve_app.messages_feeds import Article
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.answers import StoredAnswer
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from tests.corpus.folder import NEEDED, SERIES, name_of, versions
from tests.fast.fakes_feeds import Clock, FakeFeedServer, settings_for, until

pytestmark = [pytest.mark.corpus, NEEDED]

DAY_S = 90_000.0  # longer than max_interval_s, so that every tick is a check
MOVED = {"apache-datafusion": 26, "apache-drill": 11}  # articles that the site published under another id later


class FakeModel:
    """Behind the answer cache; `asked` counts how often it had to answer each prompt."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._kept: dict[str, StoredAnswer] = {}
        self._answers = Answers(self._generate, self._fingerprint, self._promote, self, CacheSettings(), Metrics())

    async def answer(self, article: Article, settings: FeedsSettings) -> Answer:
        """As FeedsService asks."""
        generate = Generate("r", "m", Sampling(max_tokens=9), question(article, settings.summary), priority="batch")
        return await self._answers.whole(Ask(generate, feed_id=article.feed_id))

    async def get(self, key: str) -> StoredAnswer | None:
        return self._kept.get(key)

    async def put(self, answer: StoredAnswer) -> None:
        self._kept[answer.key] = answer

    async def _generate(self, request: Generate) -> AsyncGenerator[Item, None]:
        self.asked[request.messages[-1].content] += 1
        yield Chunk("It says something new.", 4)
        yield Finish("stop", Usage(10, 4), 0.1, 0.1, 0.0, 0.0, 0.1, 1, 0.0)

    async def _fingerprint(self) -> str:
        return "weights"

    async def _promote(self, request_id: str) -> None:
        raise AssertionError("nobody waits")


class Reader:
    """parse.parse, and what it found: `now` in the last document, `ever` in all of them."""

    def __init__(self) -> None:
        self.now: tuple[Entry, ...] = ()
        self.ever: set[str] = set()

    async def __call__(self, body: bytes, url: str, content_type: str | None) -> ParsedFeed:
        parsed = await asyncio.to_thread(parse, body, url, content_type)
        self.now = parsed.entries
        self.ever.update(entry.text_hash for entry in parsed.entries)
        return parsed


@pytest.mark.parametrize("path", SERIES, ids=name_of)
async def test_a_replayed_series_costs_one_call_per_text_and_loses_nothing(path: pathlib.Path, database: Database) -> None:
    store, clock, model, reader = ArticleStore(database), Clock(1_800_000_000.0), FakeModel(), Reader()
    async with FakeFeedServer() as server:
        settings = settings_for(server.url("/live"), min_words=0, max_new_per_check=10_000, summary={"max_words": 1_000_000})
        loop = FeedsLoop(
            store, Fetcher(settings, gap_s=0.0), model.answer, Metrics(), "me", clock, settings, idle_wait_s=0.05, parse=reader
        )
        task, own, guids = asyncio.create_task(loop.run()), feed_id(server.url("/live")), set[str]()
        for number, body in enumerate(versions(path)):
            server.serve("/live", body, {"ETag": f'"{number}"', "Content-Type": "application/xml"})
            clock.pass_s(DAY_S)
            loop.wake()
            await until(lambda: settled(store, own, clock()), timeout_s=60.0)
            stored = store.known(own, [entry.guid for entry in reader.now])
            assert {entry.guid: entry.text_hash for entry in reader.now} == {guid: one.text_hash for guid, one in stored.items()}
            assert {one.state for one in stored.values()} <= {"done"}
            guids |= stored.keys()
        await loop.stop()
        assert task.done()
    assert set(model.asked.values()) == {1}, "none twice"
    assert len(model.asked) == len(reader.ever), "one call per distinct text"
    assert len(guids) - store.counts()["done"] == MOVED.get(name_of(path), 0), "articles that came back under another id"
    assert store.counts() == {"pending": 0, "failed": 0, "skipped": 0, "done": store.counts()["done"]}


def settled(store: ArticleStore, own: str, now: float) -> bool:
    """The check of this tick is stored and nothing waits for the model."""
    found = [feed for feed in store.feeds() if feed.id == own]
    return bool(found) and found[0].last_success_at == now and not dict(found[0].num_articles).get("pending")
