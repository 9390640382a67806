"""One check of one feed: fetch, parse, decide, store. Whatever goes wrong becomes the feed's `last_error` and a later next check.

Validators and articles are stored in one transaction, the time of the next check before the first byte is asked for.
Tests: tests/fast/test_feeds_check.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from serve_app import faults
from serve_app.errors import DatabaseUnavailable, FetchError, NotFound
from serve_app.feed_url import masked
from serve_app.feeds.decide import Decision, Hints, article_id, decide, next_check, rhythm
from serve_app.feeds.fetch import Fetched, NotModified
from serve_app.feeds.move import is_lost, move
from serve_app.feeds.pacing import host_scope
from serve_app.feeds.parse import ParsedFeed, parse
from serve_app.feeds.wanted import wants_page
from serve_app.messages_feeds import Feed
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import ArticleStore, LeaseLost
from serve_app.store.records import FeedCheck, FeedFailure, KnownArticle, Move, Rhythm

log = logging.getLogger(__name__)

Result = Literal["new", "unchanged", "error"]


class Fetch(Protocol):
    """What is needed of a Fetcher."""

    async def fetch(self, url: str, etag: str | None = None, last_modified: str | None = None) -> Fetched | NotModified:
        """See fetch.Fetcher."""

    def reconfigure(self, settings: FeedsSettings) -> None:
        """See fetch.Fetcher."""

    def wait_s(self, url: str) -> float:
        """See fetch.Fetcher."""


class Parse(Protocol):
    """parse.parse, somewhere else; see parsing.Parsers."""

    async def __call__(self, body: bytes, url: str, content_type: str | None) -> ParsedFeed:
        """See parse.parse."""


class Pushes(Protocol):
    """What is needed of a websub.Subscriber. Both block."""

    def advertised(self, feed_id: str, hub: str | None, topic: str | None) -> None:
        """See websub.Subscriber."""

    def is_pushed(self, feed_id: str) -> bool:
        """See websub.Subscriber."""


async def parse_here(body: bytes, url: str, content_type: str | None) -> ParsedFeed:
    """In a thread of this process, without a deadline."""
    return await asyncio.to_thread(parse, body, url, content_type)


class FeedChecker:
    """Checks feeds for one holder of the lease. `jitter` draws from 0 to 1."""

    def __init__(
        self,
        store: ArticleStore,
        fetcher: Fetch,
        metrics: Metrics,
        holder: str,
        now: Callable[[], float],
        jitter: Callable[[], float] = random.random,
        parse: Parse = parse_here,
        pushes: Pushes | None = None,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._metrics = metrics
        self._holder = holder
        self._now = now
        self._jitter = jitter
        self._parse = parse
        self._pushes = pushes

    async def check(self, feed: Feed, settings: FeedsSettings) -> None:
        """Check a feed once.

        Raises:
            LeaseLost: another replica may write now.
        """
        started = time.monotonic()
        try:
            result = await self._check(feed, settings)
        except NotFound:
            return  # the feed was removed meanwhile
        self._metrics.inc("frugal_feed_checks_total", result=result)
        self._metrics.observe("frugal_feed_check_seconds", time.monotonic() - started)

    async def _check(self, feed: Feed, settings: FeedsSettings) -> Result:
        # Should this process die before the end, the next one does not ask again at once, and does not leave a new feed empty for an hour.
        again_at = self._now() + 2 * settings.total_timeout_s
        await asyncio.to_thread(self._store.mark_checking, self._holder, feed.id, self._now(), again_at)
        faults.at("check marked")
        try:
            reply = await self._fetcher.fetch(feed.address, feed.etag, feed.last_modified)
            faults.at("fetched")
            parsed = None if isinstance(reply, NotModified) else await self._parse(reply.body, reply.url, reply.content_type)
            faults.at("parsed")
            return await asyncio.to_thread(self._record, feed, reply, parsed, settings)
        except FetchError as error:
            await self._fail(feed, error, settings)
        except asyncio.CancelledError:
            with contextlib.suppress(LeaseLost):
                await asyncio.to_thread(self._store.unmark_checking, self._holder, feed, again_at)
            raise
        except (LeaseLost, NotFound, DatabaseUnavailable):  # none is the feed's fault; it is due again soon, see above
            raise
        except Exception as error:
            log.exception("feed %s (%s): check failed", feed.id, masked(feed.url))
            await self._fail(feed, FetchError(f"internal error ({type(error).__name__}); the log has the cause"), settings)
        return "error"

    def _record(self, feed: Feed, reply: Fetched | NotModified, parsed: ParsedFeed | None, settings: FeedsSettings) -> Result:
        now = self._now()
        if parsed is None:
            etag, last_modified = reply.etag or feed.etag, reply.last_modified or feed.last_modified
            next_at = self._next(
                Hints(reply.max_age_s, rhythm=_stored_rhythm(feed), is_pushed=self._is_pushed(feed, settings)), 0, settings
            )
            moved = self._move(feed, reply.moved_to, True, now)
            self._store.record_check(self._holder, feed.id, FeedCheck(now, reply.status, next_at, etag, last_modified, move=moved))
            return "unchanged"
        if parsed.num_left_out:
            log.warning("feed %s (%s): too long; its last %d entries are left out", feed.id, masked(feed.url), parsed.num_left_out)
        known, decision = self._decide(feed, parsed, settings)
        faults.at("decided")
        title = feed.options.get("title") or parsed.title
        # While edits wait, without validators: a 304 would hide them.
        etag, last_modified = (None, None) if decision.num_waiting else (reply.etag, reply.last_modified)
        found = rhythm(parsed, now)
        self._note_hub(feed, reply, parsed, settings)
        check = FeedCheck(
            now,
            reply.status,
            self._next(Hints(reply.max_age_s, rhythm=found, is_pushed=self._is_pushed(feed, settings)), 0, settings),
            etag,
            last_modified,
            title,
            decision.new,
            decision.changed,
            decision.renamed,
            found,
            self._move(feed, reply.moved_to, bool(known), now),
            _pages(feed, decision, settings),
        )
        self._store.record_check(self._holder, feed.id, check)
        faults.at("check stored")
        return "new" if decision.new or decision.changed else "unchanged"

    async def take(self, feed: Feed, body: bytes, content_type: str | None, settings: FeedsSettings) -> None:
        """Store what a hub pushed: a document with some of the feed's entries.

        Raises:
            FetchError: it is no feed.
            LeaseLost: another replica may write now.
            NotFound: the feed was removed meanwhile.
        """
        parsed = await self._parse(body, feed.address, content_type)
        result = await asyncio.to_thread(self._record_push, feed, parsed, settings)
        self._metrics.inc("frugal_feed_checks_total", result=result)

    def _record_push(self, feed: Feed, parsed: ParsedFeed, settings: FeedsSettings) -> Result:
        # The validators of the last fetch stay: the next one then brings what this document leaves out, edits that have to wait included.
        # An entry with a known text is no renamed one here, because the document need not hold the other.
        known = self._store.known(feed.id, [entry.guid for entry in parsed.entries])
        taken = self._store.taken([article_id(feed.id, entry.guid) for entry in parsed.entries if entry.guid not in known])
        decision = decide(feed, known, parsed, self._now(), settings, taken)
        next_at = self._next(Hints(rhythm=_stored_rhythm(feed), is_pushed=True), 0, settings)
        check = FeedCheck(
            self._now(),
            200,
            next_at,
            feed.etag,
            feed.last_modified,
            "",
            decision.new,
            decision.changed,
            pages=_pages(feed, decision, settings),
        )
        self._store.record_check(self._holder, feed.id, check)
        return "new" if decision.new or decision.changed else "unchanged"

    def _note_hub(self, feed: Feed, reply: Fetched | NotModified, parsed: ParsedFeed, settings: FeedsSettings) -> None:
        if self._pushes is None or settings.websub_callback_url is None or not isinstance(reply, Fetched):
            return
        hub, topic = (reply.hub, reply.topic) if reply.hub else (parsed.hub, parsed.topic)
        self._pushes.advertised(feed.id, hub, topic or reply.url)

    def _is_pushed(self, feed: Feed, settings: FeedsSettings) -> bool:
        return self._pushes is not None and settings.websub_callback_url is not None and self._pushes.is_pushed(feed.id)

    def _decide(self, feed: Feed, parsed: ParsedFeed, settings: FeedsSettings) -> tuple[Mapping[str, KnownArticle], Decision]:
        guids, texts = [entry.guid for entry in parsed.entries], [entry.text_hash for entry in parsed.entries]
        known = self._store.known(feed.id, guids, texts)
        taken = self._store.taken([article_id(feed.id, guid) for guid in guids if guid not in known])
        return known, decide(feed, known, parsed, self._now(), settings, taken)

    def _move(self, feed: Feed, to: str | None, is_same_feed: bool, now: float) -> Move:
        return move(feed, to, is_same_feed, self._store.addresses() if to else {}, now)

    async def _fail(self, feed: Feed, error: FetchError, settings: FeedsSettings) -> None:
        num_errors = feed.num_errors + 1
        next_at = self._next(Hints(retry_after_s=error.retry_after_s), num_errors, settings)
        is_gone, forget_move = error.http_status == 410, is_lost(feed, num_errors)
        failure = FeedFailure(self._now(), error.message, next_at, error.http_status, is_gone and not feed.moved_to, forget_move or is_gone)
        log.warning("feed %s (%s): %s", feed.id, masked(feed.url), error.message)
        await asyncio.to_thread(self._store.record_failure, self._holder, feed.id, failure)
        faults.at("failure stored")
        if error.held_host is not None and error.retry_after_s is not None:
            until = self._now() + min(error.retry_after_s, settings.max_interval_s)
            await asyncio.to_thread(self._hold, error.held_host, until)

    def _hold(self, host: str, until: float) -> None:
        ids = [own for own, urls in self._store.addresses().items() if host_scope(urls[-1]) == host]
        self._store.hold(self._holder, ids, until)

    def _next(self, hints: Hints, num_errors: int, settings: FeedsSettings) -> float:
        return next_check(hints, num_errors, self._now(), settings, self._jitter())


def _pages(feed: Feed, decision: Decision, settings: FeedsSettings) -> frozenset[str]:
    found = (article for article in (*decision.new, *decision.changed) if article.state == "pending")
    return frozenset(article.id for article in found if wants_page(feed, article, settings))


def _stored_rhythm(feed: Feed) -> Rhythm:
    return Rhythm(feed.asked_wait_s, feed.skips, feed.entry_gap_s, feed.newest_at)
