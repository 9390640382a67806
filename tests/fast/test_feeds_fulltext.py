"""Pages over real HTTP: read where they are allowed and better, and the feed's text with a reason everywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.errors import FetchError
from serve_app.feeds.fetch import Fetched, Fetcher, MayRead
from serve_app.feeds.fulltext import MAX_ATTEMPTS, PageReader
from serve_app.feeds.loop import FeedsLoop
from serve_app.feeds.parsing import Parsers
from serve_app.messages import Answer
from serve_app.messages_feeds import Article
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedEntry, FeedsSettings
from serve_app.store.article_pages import PageStore
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from tests.contract_store.makers import ME, URL, article, check
from tests.fast.fakes_feeds import LONG, Clock, FakeAnswerer, FakeFeedServer, FakeFetcher, settings_for, until

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
        self.store.sync_configured(ME, [FeedEntry(url=server.url(), full_text=True)], 1.0)
        self.id = article("a").id

    def publish(self, link: str, guid: str = "a") -> None:
        own = replace(article(guid), feed_id=feed_id(self.server.url()), link=link, text="Only these few words.", published_at=ord(guid))
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


async def test_a_redirect_to_what_robots_txt_forbids_is_not_followed(world: World) -> None:
    world.server.serve("/robots.txt", b"User-agent: *\nDisallow: /private")
    world.server.serve("/private", PAGE.encode(), HTML)
    world.publish(world.server.redirect("/short", "/private"))
    found = await world.read()
    assert (found.text_source, found.text_note) == ("feed", "its site's robots.txt does not allow us to read its page")
    assert [request.path for request in world.server.requests] == ["/robots.txt", "/short"]


async def test_of_what_is_no_web_page_the_body_is_not_read(world: World) -> None:
    world.publish(world.server.serve("/page", b"x" * (world.settings.max_feed_bytes + 1), {"Content-Type": "video/mp4"}))
    assert (await world.read()).text_note == "its link leads to no web page but to video/mp4"
    assert world.pages.wanted(1e12, 9) == ()


async def test_a_site_that_asks_for_a_pause_gets_it_with_its_other_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.feeds.guard.is_public", lambda address: True)  # a private host may be a bridge to many sites
    for guid in "ab":
        world.publish(world.server.serve(f"/{guid}", b"", {**HTML, "Retry-After": "1000"}, status=429), guid)
    for waited_s in (0.0, 500.0, 499.0):
        world.clock.pass_s(waited_s)
        await world.read()
        assert [request.path for request in world.server.requests] == ["/robots.txt", "/a"], waited_s
    world.clock.pass_s(1.0)
    await world.read()
    assert len(world.server.requests) == 3


async def test_killed_in_the_middle_of_each_try_it_is_asked_for_no_more_often_than_allowed(world: World) -> None:
    world.publish(world.server.hang("/page"))
    for tries in range(1, MAX_ATTEMPTS + 1):
        await asyncio.to_thread(world.pages.mark, ME, world.id, tries, world.clock() + 300.0)  # what is left of a killed one
    assert await world.reader.due(4, (), world.settings) == [], "not at once again"
    world.clock.pass_s(300.0)
    assert (await world.read()).text_note == f"its page could not be read in {MAX_ATTEMPTS} tries"
    assert world.server.requests == []


async def test_where_the_feed_wants_pages_no_more_none_is_asked_for(world: World) -> None:
    world.publish(world.server.url("/page"))
    world.store.sync_configured(ME, [FeedEntry(url=world.server.url(), full_text=False)], 2.0)
    assert (await world.read()).text_note == "full_text was switched off before its page was read"
    assert world.server.requests == []


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


class Web:
    """Pages for a PageReader: of every address the same, in place of a network and of trafilatura; `asked` has the addresses."""

    def __init__(self, text: str) -> None:
        self.asked: list[str] = []
        self.text = text

    async def page(self, url: str, feed_url: str, may: MayRead | None = None, kinds: tuple[str, ...] = ()) -> Fetched:
        if url.endswith("/robots.txt"):
            raise FetchError("none", http_status=404)
        assert may is not None
        await may(url)
        self.asked.append(url)
        return Fetched(url, b"", "text/html")

    async def extract(self, body: bytes, url: str, content_type: str | None) -> str:
        return self.text


async def test_in_the_loop_a_teaser_is_summarised_by_its_page_once_and_a_page_that_changes_costs_nothing(database: Database) -> None:
    store, fetcher, web, clock = ArticleStore(database), FakeFetcher(), Web("All that the page says, in more words."), Clock()
    given: list[tuple[str, str]] = []

    class Model(FakeAnswerer):
        async def __call__(self, article: Article, settings: FeedsSettings) -> Answer:
            given.append((article.guid, article.best_text))
            return await super().__call__(article, settings)

    fetcher.publish(URL).entry("a", text="Read more").entry("b", text="Words " * 1_000)
    settings = settings_for(min_words=5, feeds=(FeedEntry(url=URL, full_text=True),))
    reader = PageReader(PageStore(database), web, web.extract, ME, clock)
    loop = FeedsLoop(store, fetcher, Model(), Metrics(), ME, clock, settings, idle_wait_s=0.01, pages=reader)
    task = asyncio.create_task(loop.run())
    try:
        await until(lambda: store.counts()["done"] == 2)
        web.text = "The page says something else now, with an advert of the day."
        fetcher.publish(URL).entry("c", text="Another teaser")
        clock.pass_s(100_000)
        loop.wake()
        await until(lambda: store.counts()["done"] == 3)
    finally:
        await loop.stop()
    assert task.done()
    assert dict(given) == {"a": "All that the page says, in more words.", "b": ("Words " * 1_000).strip(), "c": web.text}
    assert (len(given), web.asked) == (3, ["https://feed.test/a", "https://feed.test/c"])
