"""Pages over real HTTP: read where they are allowed and better, and the feed's text with a reason everywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.feeds.fetch import Fetcher
from serve_app.feeds.fulltext import MAX_ATTEMPTS, PageReader
from serve_app.feeds.parsing import Parsers
from serve_app.messages_feeds import Article
from serve_app.settings_feeds import FeedEntry
from serve_app.store.article_pages import PageStore
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from tests.contract_store.makers import ME, article, check
from tests.fast.fakes_feeds import LONG, Clock, FakeFeedServer, settings_for

HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = f"<html><body><nav>Menu</nav><article><h1>T</h1><p>{LONG}</p><p>{LONG[::-1]}</p></article></body></html>"


class World:
    """A server, a feed of one article that links to /page, and who reads it."""

    def __init__(self, server: FakeFeedServer, database: Database, missing: str | None = None) -> None:
        self.server, self.clock, self.parsers = server, Clock(), Parsers(1)
        self.settings = settings_for(server.url(), min_words=3)
        self.store, self.pages = ArticleStore(database), PageStore(database)
        self.reader = PageReader(self.pages, Fetcher(self.settings, gap_s=0.0), self.parsers.extract, ME, self.clock, missing)
        assert self.store.lease(LEASE, ME, 0.0, 1e12)
        self.store.sync_configured(ME, [FeedEntry(url=server.url())], 1.0)
        self.id = article("a").id

    def publish(self, link: str) -> None:
        own = replace(article("a"), feed_id=feed_id(self.server.url()), link=link, text="Only these few words.")
        self.store.record_check(ME, own.feed_id, replace(check(own), pages=frozenset([own.id])))

    async def read(self) -> Article:
        for _id, reading in await self.reader.due(4, (), self.settings):
            await reading
        return await asyncio.to_thread(self.store.article, self.id)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with FakeFeedServer() as server:
        world = World(server, database)
        yield world
        await world.parsers.close()


async def test_the_article_of_a_page_is_used(world: World) -> None:
    pytest.importorskip("trafilatura")
    world.publish(world.server.serve("/page", PAGE.encode(), HTML))
    found = await world.read()
    assert (found.text_source, found.text_note, found.state, found.text) == ("page", None, "pending", "Only these few words.")
    assert LONG in found.page_text
    assert "Menu" not in found.page_text
    assert [request.path for request in world.server.requests] == ["/robots.txt", "/page"]
    assert "FrugalServe" in world.server.requests[1].headers["User-Agent"]


@pytest.mark.parametrize(
    ("robots", "headers", "body", "note"),
    [
        ("User-agent: *\nDisallow: /p", HTML, PAGE, "robots.txt does not allow"),
        ("", {"Content-Type": "application/pdf"}, "%PDF", "no web page but to application/pdf"),
        ("", HTML, "", "no article was found"),
    ],
)
async def test_where_a_page_may_not_be_read_or_is_none_the_feeds_text_is_used(
    world: World, robots: str, headers: dict[str, str], body: str, note: str
) -> None:
    world.server.serve("/robots.txt", robots.encode(), {"Content-Type": "text/plain"})
    world.publish(world.server.serve("/page", body.encode(), headers))
    found = await world.read()
    assert (found.text_source, found.best_text) == ("feed", "Only these few words.")
    assert note in (found.text_note or "")


async def test_a_server_in_trouble_is_asked_a_few_times_and_never_at_once(world: World) -> None:
    world.publish(world.server.serve("/page", b"", HTML, status=503))
    for _attempt in range(MAX_ATTEMPTS):
        assert (await world.read()).state == "pending"
        num_asked = len(world.server.requests)
        await world.read()
        assert len(world.server.requests) == num_asked
        world.clock.pass_s(7 * 3600.0)
    found = await world.read()
    assert [request.path for request in world.server.requests].count("/page") == MAX_ATTEMPTS
    assert "503" in (found.text_note or "")
    assert world.store.pending_articles(world.clock(), 9) == (found,)


async def test_a_private_host_that_is_not_the_feeds_own_is_not_read(world: World) -> None:
    world.publish(world.server.url("/page", host="127.0.0.2"))
    for _attempt in range(MAX_ATTEMPTS):
        found = await world.read()
        world.clock.pass_s(7 * 3600.0)
    assert found.text_source == "feed"
    assert world.server.requests == []


async def test_without_the_extra_nobody_is_asked_and_the_note_says_what_to_install(database: Database) -> None:
    async with FakeFeedServer() as server:
        world = World(server, database, missing="needs the extra fulltext")
        world.publish(server.url("/page"))
        found = await world.read()
        assert (found.text_note, found.state, server.requests) == ("needs the extra fulltext", "pending", [])
