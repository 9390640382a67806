"""Articles' own pages, for feeds that carry only a sentence or two: wanted -> robots.txt -> fetch -> extract -> which text is used.

Whatever goes wrong, the feed's text is used in the end and the reason is shown. Change is still decided by the feed's text alone, so a
page that differs with every request costs no second summary. Tests: tests/fast/test_feeds_fulltext.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Protocol

from serve_app import faults
from serve_app.errors import DatabaseUnavailable, FetchError
from serve_app.feeds.decide import is_long_enough
from serve_app.feeds.fetch import Fetched, MayRead
from serve_app.feeds.pacing import host_scope
from serve_app.feeds.robots import Robots
from serve_app.feeds.text import num_words
from serve_app.feeds.wanted import switched_on
from serve_app.messages_feeds import Article
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.article_pages import PageStore, WantedPage
from serve_app.store.leases import LeaseLost

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
RETRY_S = 300.0  # before the second try; doubles with each
MAX_RETRY_S = 6 * 3600.0
LOOK_AHEAD = 200  # wanted pages among which other hosts are looked for
HTML = ("text/html", "application/xhtml+xml")
PASSING = (408, 425, 429)  # of the 4xx: another time may do
NOT_WANTED = "full_text was switched off before its page was read"

Extract = Callable[[bytes, str, str | None], Awaitable[str]]


class Disallowed(Exception):
    """An address on the way to a page that robots.txt does not let us read."""


class FetchPage(Protocol):
    """What is needed of a Fetcher."""

    async def page(self, url: str, feed_url: str, may: MayRead | None = None, kinds: tuple[str, ...] = ()) -> Fetched:
        """See fetch.Fetcher."""


def choose(article: Article, page: str) -> str | None:
    """Why the feed's text is better than the page's, or None if it is not."""
    if not page:
        return "no article was found on its page"
    num_page, num_feed = num_words(page), num_words(article.text)
    return None if num_page > num_feed else f"its page gives no more than the feed ({num_page} words, {num_feed} in the feed)"


class PageReader:
    """Reads pages for one holder of the lease. `missing`: why it cannot; then the feeds' texts are used."""

    def __init__(
        self, store: PageStore, fetcher: FetchPage, extract: Extract, holder: str, now: Callable[[], float], missing: str | None = None
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._extract = extract
        self._holder = holder
        self._now = now
        self._missing = missing
        self._hosts: dict[str, str] = {}  # of the pages that are being read, by article
        self._held: dict[str, float] = {}  # hosts that asked for a pause, until then
        self._robots = Robots(self._robots_txt, now)

    async def due(self, room: int, busy: Collection[str], settings: FeedsSettings) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What to do now, by article: at most `room` pages, of no host two at once, and of none that asked for a pause. `busy`: articles
        whose page is being read."""
        if room <= 0:
            return []
        self._hosts = {article_id: host for article_id, host in self._hosts.items() if article_id in busy}
        chosen: list[tuple[str, Coroutine[Any, Any, None]]] = []
        for page in await asyncio.to_thread(self._store.wanted, self._now(), LOOK_AHEAD, busy):
            host = host_scope(page.article.link)
            if len(chosen) < room and host not in self._hosts.values() and self._held.get(host, 0.0) <= self._now():
                self._hosts[page.article.id] = host
                chosen.append((page.article.id, self.read(page, settings)))
        return chosen

    async def read(self, wanted: WantedPage, settings: FeedsSettings) -> None:
        """One try at one article's page.

        Raises:
            LeaseLost: another replica may write now.
        """
        article, attempts = wanted.article, wanted.attempts + 1
        if self._missing is not None:
            await asyncio.to_thread(self._decide, article, "", self._missing, settings)
            return
        if not switched_on(wanted.options, settings):
            await asyncio.to_thread(self._decide, article, "", NOT_WANTED, settings)
            return
        if attempts > MAX_ATTEMPTS:  # each of them ended with this process
            await asyncio.to_thread(self._decide, article, "", f"its page could not be read in {MAX_ATTEMPTS} tries", settings)
            return
        wait_s = min(RETRY_S * 2.0 ** (attempts - 1), MAX_RETRY_S)
        await asyncio.to_thread(self._store.mark, self._holder, article.id, attempts, self._now() + wait_s)
        faults.at("page marked")
        try:
            page, why = await self._page(article, wanted.feed_url)
            faults.at("page read")
        except FetchError as error:
            self._hold(error)
            if attempts < MAX_ATTEMPTS and _may_pass(error):
                later = self._now() + min(max(wait_s, error.retry_after_s or 0), MAX_RETRY_S)
                await asyncio.to_thread(self._store.postpone, self._holder, article.id, error.message, later)
                return
            page, why = "", error.message
        except asyncio.CancelledError:
            with contextlib.suppress(LeaseLost):
                await asyncio.to_thread(self._store.mark, self._holder, article.id, wanted.attempts, self._now())
            raise
        except (LeaseLost, DatabaseUnavailable):
            raise
        except Exception as error:
            log.exception("article %s: its page could not be read", article.id)
            page, why = "", f"internal error ({type(error).__name__}) with its page; the log has the cause"
        await asyncio.to_thread(self._decide, article, page, why or choose(article, page), settings)
        faults.at("page stored")

    async def _page(self, article: Article, feed_url: str) -> tuple[str, str | None]:
        async def may(url: str) -> None:
            if not await self._robots.allow(url, feed_url):
                raise Disallowed

        try:
            reply = await self._fetcher.page(article.link, feed_url, may, HTML)
        except Disallowed:
            return "", "its site's robots.txt does not allow us to read its page"
        try:
            return await self._extract(reply.body, reply.url, reply.content_type), None
        except FetchError as error:  # another time it would be no better
            return "", error.message

    def _hold(self, error: FetchError) -> None:
        if error.held_host is not None and error.retry_after_s is not None:
            self._held = {host: until for host, until in self._held.items() if until > self._now()}
            self._held[error.held_host] = self._now() + min(error.retry_after_s, MAX_RETRY_S)

    async def _robots_txt(self, url: str, feed_url: str) -> bytes:
        return (await self._fetcher.page(url, feed_url)).body

    def _decide(self, article: Article, page: str, why: str | None, settings: FeedsSettings) -> None:
        text = article.text if why else page
        words = num_words(text)
        skip = None if is_long_enough(text, settings) else f"only {words} word{'' if words == 1 else 's'}"
        self._store.decide(self._holder, article, "feed" if why else "page", "" if why else page, why, skip)


def _may_pass(error: FetchError) -> bool:
    status = error.http_status
    return status is None or status >= 500 or status in PASSING
