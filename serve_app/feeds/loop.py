"""The Feeds loop: hold the lease, check what is due, summarise what is pending, for ever.

    lease --lost--> wait            due feeds --> max_checks slots, one per host (check.py) --> articles pending
      |  held                       pages     --> MAX_READS slots, one per host (fulltext.py) --> the text that is summarised
      |                         pending   --> max_in_flight slots (summarise.py) --> done, or a next try
      +--> renew | check | summarise | ask hubs, together; LeaseLost in any of them ends all

One feed's or article's trouble is a value and stays with it. All state is in the store, so killing this at any point loses at most what
was in flight. Tests: tests/fast/test_feeds_loop.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from serve_app import faults
from serve_app.feeds.check import FeedChecker, Fetch, Parse, parse_here
from serve_app.feeds.fulltext import PageReader
from serve_app.feeds.pacing import host_scope
from serve_app.feeds.slots import Slots
from serve_app.feeds.summarise import AskFor, Summariser
from serve_app.feeds.websub import Subscriber
from serve_app.messages_feeds import Feed
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost

log = logging.getLogger(__name__)

REREAD_S = 0.5  # so long the list of due feeds serves the slots that become free, before it is read again
IDLE_WAIT_S = 2.0  # how long a change that nobody woke us for may go unnoticed
MAX_READS = 8  # articles' pages read at once, of one host always one
SUBSCRIBE_S = 10.0  # between two looks for hubs that are to be asked
BUSY_GRACE_S = 60.0  # a beat may be late by this much (a long wait for the database's lock) before `alive` says no


class FeedsLoop:
    """One replica's loop. `ask` gets a whole answer for an article; `now` is the time in Unix seconds; `model` names who writes.

    `beside`: what else the holder of the lease does, each for ever or until it raises LeaseLost.
    """

    def __init__(
        self,
        store: ArticleStore,
        fetcher: Fetch,
        ask: AskFor,
        metrics: Metrics,
        holder: str,
        now: Callable[[], float],
        settings: FeedsSettings,
        *,
        model: str = "",
        idle_wait_s: float = IDLE_WAIT_S,
        parse: Parse = parse_here,
        jitter: Callable[[], float] = random.random,
        subscriber: Subscriber | None = None,
        beside: Sequence[Callable[[], Awaitable[None]]] = (),
        pages: PageReader | None = None,
    ) -> None:
        self._beside = tuple(beside)
        self._store = store
        self._fetcher = fetcher
        self._checker = FeedChecker(store, fetcher, metrics, holder, now, jitter, parse, subscriber)
        self._summariser = Summariser(store, ask, metrics, holder, now, model)
        self._subscriber = subscriber
        self._pages = pages
        self._metrics = metrics
        self._holder = holder
        self._now = now
        self._settings = settings
        self._idle_wait_s = idle_wait_s
        self._must_sync = True
        self._must_recheck = False
        self._rests = False
        self._asked = False  # somebody woke the loop: the list of due feeds may be another
        self._wakers = {name: asyncio.Event() for name in ("lease", "check", "pages", "summarise", "subscribe")}
        self._run: asyncio.Task[None] | None = None
        self._renewal: asyncio.Future[bool] | None = None
        self._last_beat: float | None = None

    async def run(self) -> None:
        """Run until cancelled or stopped. Without the lease: wait for it."""
        self._run = asyncio.current_task()
        try:
            while True:
                self._beat()
                try:
                    if await self._acquire():
                        faults.at("lease taken")
                        await self._work()
                except LeaseLost as lost:
                    log.warning("%s; waiting for it", lost)
                except Exception:
                    log.exception("the feeds loop failed and begins again")
                self._metrics.set("frugal_feeds_lease_held", 0)
                await self._wait("lease", min(self._settings.lease_s / 3, self._idle_wait_s))
        finally:
            self._last_beat = None
            self._metrics.set("frugal_feeds_lease_held", 0)

    def wake(self) -> None:
        """Look at feeds and articles now: something was added or asked for."""
        self._asked = True
        for event in self._wakers.values():
            event.set()

    def reconfigure(self, settings: FeedsSettings) -> None:
        """Take other settings over; feeds that came or went, or that may be fetched only now, are seen at once."""
        self._must_recheck = self._must_recheck or settings.allow_private_hosts != self._settings.allow_private_hosts
        self._fetcher.reconfigure(settings)
        self._settings = settings
        self._must_sync = True
        self.wake()

    def rest(self) -> None:
        """Begin no further summary: the program stops, and until then its cores are for those who wait for an answer."""
        self._rests = True

    def alive(self) -> bool:
        """True while `run` runs and is not stuck."""
        limit_s = BUSY_GRACE_S + 2 * self._settings.lease_s
        return self._last_beat is not None and asyncio.get_running_loop().time() - self._last_beat < limit_s

    async def stop(self) -> None:
        """End `run`, and let the next holder begin at once."""
        if self._run is not None and not self._run.done():
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)
        if self._renewal is not None:
            await asyncio.gather(self._renewal, return_exceptions=True)
        await asyncio.to_thread(self._store.release, LEASE, self._holder)

    async def _acquire(self) -> bool:
        # Shielded: a renewal that a cancelled task left behind in its thread must not come after the release.
        lease = asyncio.to_thread(self._store.lease, LEASE, self._holder, self._now(), self._settings.lease_s)
        self._renewal = asyncio.ensure_future(lease)
        return await asyncio.shield(self._renewal)

    async def _work(self) -> None:
        """What the holder of the lease does, until one part raises."""
        self._must_sync = True
        parts: tuple[Callable[[], Awaitable[None]], ...] = (
            self._keep_lease,
            self._check_feeds,
            self._read_pages,
            self._summarise,
            self._subscribe,
        )
        tasks = [asyncio.ensure_future(part()) for part in (*parts, *self._beside)]
        try:
            done, _running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_lease(self) -> None:
        """Renew in time, and tell how things stand while at it."""
        while True:
            self._beat()
            self._metrics.set("frugal_feeds_lease_held", 1)
            for state, count in (await asyncio.to_thread(self._store.counts)).items():
                self._metrics.set("frugal_articles", count, state=state)
            await self._wait("lease", self._settings.lease_s / 3)
            if not await self._acquire():
                raise LeaseLost(f"another replica took the lease {LEASE!r} from {self._holder!r}")

    async def _check_feeds(self) -> None:
        slots, due, read_at = Slots(self._wakers["check"].set), list[Feed](), float("-inf")
        hosts: dict[str, str] = {}  # of the feeds that are being checked, by id
        try:
            while True:
                slots.check()
                settings, now = self._settings, asyncio.get_running_loop().time()
                await self._sync(settings)
                if not due or now - read_at >= REREAD_S or self._asked:
                    self._asked, read_at = False, now
                    busy = set(slots.keys)  # as of before the query, which may be older than the end of a check
                    due = [feed for feed in await asyncio.to_thread(self._store.due_feeds, self._now()) if feed.id not in busy]
                    faults.at("due feeds read")
                hosts = {feed_id: host for feed_id, host in hosts.items() if feed_id in slots}
                chosen, soonest_s = self._choose(due, set(hosts.values()), settings.max_checks - len(slots))
                for feed in chosen:
                    hosts[feed.id] = host_scope(feed.address)
                    slots.start(feed.id, self._checker.check(feed, settings))
                due = [feed for feed in due if feed.id not in hosts]
                await self._wait("check", min(self._idle_wait_s, soonest_s))
                self._wakers["pages"].set()
                self._wakers["summarise"].set()
        finally:
            await slots.cancel()

    async def _read_pages(self) -> None:
        slots = Slots(self._wakers["pages"].set)
        try:
            while True:
                slots.check()
                if self._pages is not None:
                    for article_id, reading in await self._pages.due(MAX_READS - len(slots), slots.keys, self._settings):
                        slots.start(article_id, reading)
                self._wakers["summarise"].set()
                await self._wait("pages", self._idle_wait_s)
        finally:
            await slots.cancel()

    def _choose(self, due: Sequence[Feed], busy: set[str], room: int) -> tuple[list[Feed], float]:
        """The longest overdue feeds, one per host and none of a host that must be left in peace; and in how many seconds the first of
        those may be asked. A feed that waited in a slot for its host's turn would keep others out."""
        chosen: list[Feed] = []
        soonest_s = float("inf")
        for feed in due:
            host = host_scope(feed.address)
            if len(chosen) >= room or (host and host in busy):
                continue
            wait_s = self._fetcher.wait_s(feed.address)
            if wait_s > 0:
                soonest_s = min(soonest_s, wait_s)
                continue
            busy.add(host)
            chosen.append(feed)
        return chosen, soonest_s

    async def _sync(self, settings: FeedsSettings) -> None:
        if self._must_sync:
            self._must_sync = False
            await asyncio.to_thread(self._store.sync_configured, self._holder, settings.feeds, self._now())
            faults.at("list synced")
        if self._must_recheck:
            self._must_recheck = False
            for feed in await asyncio.to_thread(self._store.feeds):
                if feed.state == "failing":
                    await asyncio.to_thread(self._store.refresh, feed.id, self._now())

    async def _summarise(self) -> None:
        slots = Slots(self._wakers["summarise"].set)
        try:
            while True:
                slots.check()
                settings, now = self._settings, self._now()
                free = settings.max_in_flight - len(slots)
                if free > 0 and not self._rests and now >= self._summariser.paused_until:
                    for article in await asyncio.to_thread(self._store.pending_articles, now, free, slots.keys):
                        slots.start(article.id, self._summariser.summarise(article, settings))
                await self._wait("summarise", self._idle_wait_s)
        finally:
            await slots.cancel()

    async def _subscribe(self) -> None:
        while True:
            if self._subscriber is not None:
                await self._subscriber.ask(self._settings)
            await self._wait("subscribe", max(self._idle_wait_s, SUBSCRIBE_S))

    async def take(self, feed_id: str, body: bytes, content_type: str | None) -> None:
        """Store what a hub pushed; see FeedChecker.take. For a paused feed it is dropped: the first check afterwards will bring it."""
        feed = await asyncio.to_thread(self._store.feed, feed_id)
        if feed.state == "paused":
            return
        await self._checker.take(feed, body, content_type, self._settings)
        self._wakers["pages"].set()
        self._wakers["summarise"].set()

    async def _wait(self, name: str, timeout_s: float) -> None:
        """Until woken, or for so long at most."""
        event = self._wakers[name]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()
        event.clear()

    def _beat(self) -> None:
        self._last_beat = asyncio.get_running_loop().time()
