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
from collections.abc import Callable
from typing import Literal, Protocol

from serve_app.errors import DatabaseUnavailable, FetchError, NotFound
from serve_app.feed_url import masked
from serve_app.feeds.decide import Hints, decide, next_check
from serve_app.feeds.fetch import Fetched, NotModified
from serve_app.feeds.parse import ParsedFeed, parse
from serve_app.messages import Feed
from serve_app.metrics import Metrics
from serve_app.settings import FeedsSettings
from serve_app.store.articles import ArticleStore, LeaseLost
from serve_app.store.records import FeedCheck, FeedFailure

log = logging.getLogger(__name__)

Result = Literal["new", "unchanged", "error"]


class Fetch(Protocol):
    """What is needed of a Fetcher."""

    async def fetch(self, url: str, etag: str | None = None, last_modified: str | None = None) -> Fetched | NotModified:
        """See fetch.Fetcher."""

    def reconfigure(self, settings: FeedsSettings) -> None:
        """See fetch.Fetcher."""


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
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._metrics = metrics
        self._holder = holder
        self._now = now
        self._jitter = jitter

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
        try:
            reply = await self._fetcher.fetch(feed.url, feed.etag, feed.last_modified)
            parsed = None if isinstance(reply, NotModified) else await asyncio.to_thread(parse, reply.body, reply.url, reply.content_type)
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
        next_at = self._next(Hints(parsed.ttl_s if parsed else None, reply.max_age_s), 0, settings)
        if parsed is None:
            etag, last_modified = reply.etag or feed.etag, reply.last_modified or feed.last_modified
            self._store.record_check(self._holder, feed.id, FeedCheck(now, reply.status, next_at, etag, last_modified))
            return "unchanged"
        if parsed.num_left_out:
            log.warning("feed %s (%s): too long; its last %d entries are left out", feed.id, masked(feed.url), parsed.num_left_out)
        known = self._store.known(feed.id, [entry.guid for entry in parsed.entries])
        decision = decide(feed, known, parsed, now, settings)
        title = next((entry.title for entry in settings.feeds if entry.url == feed.url and entry.title), parsed.title)
        # While edits wait, without validators: a 304 would hide them.
        etag, last_modified = (None, None) if decision.num_waiting else (reply.etag, reply.last_modified)
        check = FeedCheck(now, reply.status, next_at, etag, last_modified, title, decision.new, decision.changed)
        self._store.record_check(self._holder, feed.id, check)
        return "new" if decision.new or decision.changed else "unchanged"

    async def _fail(self, feed: Feed, error: FetchError, settings: FeedsSettings) -> None:
        next_at = self._next(Hints(retry_after_s=error.retry_after_s), feed.num_errors + 1, settings)
        failure = FeedFailure(self._now(), error.message, next_at, error.http_status, is_gone=error.http_status == 410)
        log.warning("feed %s (%s): %s", feed.id, masked(feed.url), error.message)
        await asyncio.to_thread(self._store.record_failure, self._holder, feed.id, failure)

    def _next(self, hints: Hints, num_errors: int, settings: FeedsSettings) -> float:
        return next_check(hints, num_errors, self._now(), settings, self._jitter())
