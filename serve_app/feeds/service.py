"""One Feeds replica without Ray: the loop over its store and fetcher, and what the API may ask of it.

The loop starts with the first settings, not before: until then nobody knows which feeds there are. Tests: tests/fast/test_feeds_service.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.errors import BadRequest, FetchError, NotFound, Overloaded, Unavailable
from serve_app.feed_url import check_feed_url
from serve_app.feeds import extract
from serve_app.feeds.daily_writer import DailyWriter
from serve_app.feeds.fetch import Fetcher
from serve_app.feeds.fulltext import PageReader
from serve_app.feeds.loop import FeedsLoop
from serve_app.feeds.parsing import Parsers
from serve_app.feeds.probe import probe
from serve_app.feeds.prompt import question
from serve_app.feeds.rerun import Reruns
from serve_app.feeds.webhook_post import Poster
from serve_app.feeds.webhooks import Deliverer
from serve_app.feeds.websub import Subscriber, Verification
from serve_app.live import Live
from serve_app.messages import Answer, Ask, Generate, Message, Sampling
from serve_app.messages_feeds import Article, DailyDigest, Feed, Probe, Rerun, RerunPreview
from serve_app.metrics import Metrics
from serve_app.settings import AppSettings
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.article_pages import PageStore
from serve_app.store.articles import ArticleStore, LeaseLost
from serve_app.store.daily import DailyStore
from serve_app.store.database import Database
from serve_app.store.feed_list import NO_OPTIONS
from serve_app.store.webhooks import Outbox, WebhookStore
from serve_app.store.websub import SubscriptionStore

log = logging.getLogger(__name__)

RETRY_TEMPERATURE = 0.7
MAX_PROBES = 4
PROBE_RETRY_S = 5.0


class FeedsService:
    """`answer` asks AnswerCache; `replica_id` names the holder of the lease."""

    def __init__(self, app: AppSettings, replica_id: str, answer: Callable[[Ask], Awaitable[Answer]], session: str = "") -> None:
        self._model = app.model.id
        self._answer = answer
        self._holder = replica_id
        self._database = Database(app.database)
        self._outbox = Outbox()
        self._store = ArticleStore(self._database, self._outbox)
        self._webhooks = WebhookStore(self._database)
        self._digests = DailyStore(self._database, self._outbox)
        self._reruns = Reruns(self._database, app.model.id)
        self._settings = Live(FeedsSettings, "Feeds.user_config", app.kept_settings("Feeds"), session)
        self._loop: FeedsLoop | None = None
        self._fetcher: Fetcher | None = None
        self._subscriber: Subscriber | None = None
        self._poster: Poster | None = None
        self._deliverer: Deliverer | None = None
        self._daily: DailyWriter | None = None
        self._parsers = Parsers()
        self._num_probes = 0
        self._task: asyncio.Task[None] | None = None
        self.metrics = Metrics()

    @property
    def settings_error(self) -> str | None:
        """What is wrong with the last settings that were not taken over."""
        return self._settings.error

    async def tune(self, data: Mapping[str, Any]) -> None:
        """Take new settings over, or keep the old ones and say why in `settings_error`; the first call starts the loop."""
        if not self._settings.update(data) and self._loop is not None:
            return
        settings = self._settings.value
        if self._loop is None:
            self._fetcher = Fetcher(settings)
            given = (self._store, self._fetcher, self._ask, self.metrics, self._holder, time.time, settings)
            self._subscriber = Subscriber(SubscriptionStore(self._database), self._fetcher.post, time.time)
            self._poster = Poster(settings)
            self._deliverer = Deliverer(self._webhooks, self._poster, self.metrics, self._holder, time.time)
            self._take_webhooks(settings)
            self._daily = DailyWriter(self._digests, self._ask_daily, self.metrics, self._holder, time.time, settings, model=self._model)
            beside = (self._deliverer.run, self._daily.run)
            pages = PageReader(
                PageStore(self._database), self._fetcher, self._parsers.extract, self._holder, time.time, missing=extract.missing()
            )
            self._loop = FeedsLoop(*given, model=self._model, parse=self._parsers, subscriber=self._subscriber, pages=pages, beside=beside)
            self._task = asyncio.create_task(self._loop.run())
            # Its first turn, before anybody asks `check`: where Serve runs us on its own event loop it does so at once.
            await asyncio.sleep(0)
            return
        self._loop.reconfigure(settings)
        self._take_webhooks(settings)
        if self._daily is not None:
            self._daily.reconfigure(settings)

    async def add_feed(self, url: str, options: Mapping[str, Any] = NO_OPTIONS) -> Feed:
        """Follow a feed from now on, with options of its own (the JSON of FeedOptions).

        Raises:
            BadRequest: no feed can have this address.
            Conflict: it is followed already.
        """
        try:
            check_feed_url(url)
        except ValueError as error:
            raise BadRequest(str(error), param="url") from None
        feed = await asyncio.to_thread(self._store.add_feed, url, time.time(), options)
        self._wake()
        return feed

    async def remove_feed(self, feed_id: str) -> None:
        """Forget a feed that the API added, and its articles.

        Raises:
            NotFound: there is no such feed.
            Conflict: the configuration names it.
        """
        await asyncio.to_thread(self._store.remove_feed, feed_id)

    async def change_feed(self, feed_id: str, options: Mapping[str, Any], paused: bool | None = None) -> Feed:
        """Give a feed that the API added other options; pause any feed, or let it go on.

        Raises:
            NotFound: there is no such feed.
            Conflict: the configuration names it and it was to get options, or it left the configuration and was to go on.
        """
        feed = await asyncio.to_thread(self._store.change_feed, feed_id, options, paused)
        self._wake()
        return feed

    async def refresh_feed(self, feed_id: str) -> Feed:
        """Check a feed now.

        Raises:
            NotFound: there is no such feed.
        """
        feed = await asyncio.to_thread(self._store.refresh, feed_id, time.time())
        self._wake()
        return feed

    async def check_feed(self, url: str) -> Probe:
        """What a check of this address would do; nothing is stored.

        Raises:
            Overloaded: MAX_PROBES of these are running.
            Unavailable: no settings have come yet.
        """
        if self._fetcher is None:
            raise Unavailable("Feeds has no settings yet; GET /ready says why", retry_after_s=5)
        if self._num_probes >= MAX_PROBES:
            raise Overloaded(f"{MAX_PROBES} addresses are being tried, the most at once; try again later", retry_after_s=PROBE_RETRY_S)
        self._num_probes += 1
        try:
            return await probe(url, self._settings.value, self._fetcher, self._parsers, time.time(), self._store)
        finally:
            self._num_probes -= 1

    async def retry_article(self, article_id: str) -> Article:
        """Ask for an article's summary again.

        Raises:
            NotFound: there is no such article.
            Conflict: it is neither failed nor skipped.
        """
        article = await asyncio.to_thread(self._store.retry_article, article_id, time.time())
        self._wake()
        return article

    async def retry_digest(self, date: str, tag: str) -> DailyDigest:
        """Ask for a failed daily digest again.

        Raises:
            NotFound: there is none of this date and tag.
            Conflict: it has not failed, or is not of the last day.
        """
        digest = await asyncio.to_thread(self._digests.retry, date, tag, time.time())
        if self._daily is not None:
            self._daily.wake()
        return digest

    async def rerun_articles(self, rerun: Rerun, dry_run: bool) -> RerunPreview:
        """Summarise articles again, or with `dry_run` say what that would cost.

        Raises:
            NotFound: there is no such feed.
        """
        preview = await asyncio.to_thread(self._reruns.run, rerun, self._settings.value, time.time(), dry_run=dry_run)
        if not dry_run:
            self._wake()
        return preview

    async def verify_push(self, feed_id: str, token: str, asked: Verification) -> str:
        """The challenge for a hub that asks whether this subscription is wanted.

        Raises:
            NotFound: it is not.
        """
        if self._subscriber is None:
            raise NotFound("no subscription is wanted here yet")
        return await asyncio.to_thread(self._subscriber.verified, feed_id, token, asked)

    async def take_push(self, feed_id: str, token: str, body: bytes, content_type: str | None, signature: str) -> None:
        """Take what a hub sends. Content that it has not signed, or that is no feed, is dropped; the next check will see to it.

        Raises:
            NotFound: there is no such subscription.
        """
        if self._subscriber is None or self._loop is None:
            raise NotFound("there is no such subscription")
        if await asyncio.to_thread(self._subscriber.accepts, feed_id, token, body, signature):
            try:
                await self._loop.take(feed_id, body, content_type)
            except (FetchError, LeaseLost) as error:
                log.warning("feed %s: what its hub sent was dropped: %s", feed_id, error)

    def check(self) -> None:
        """Raise where this replica must be replaced."""
        if self._loop is not None and not self._loop.alive():
            raise RuntimeError("the feeds loop is gone or stuck")

    def rest(self) -> None:
        """See FeedsLoop.rest."""
        if self._loop is not None:
            self._loop.rest()

    async def stop(self) -> None:
        """End the loop and let the next holder of the lease begin at once."""
        if self._task is not None:  # cancelled here, because a loop that has not begun yet does not know its task
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._loop is not None:
            await self._loop.stop()
        if self._fetcher is not None:
            self._fetcher.close()
        if self._poster is not None:
            self._poster.close()
        await self._parsers.close()
        self._database.close()

    async def redeliver(self, webhook_id: str, ids: Sequence[str] | None) -> int:
        """Send dead letters again, all of a webhook or these; gives how many.

        Raises:
            NotFound: there is no such webhook.
            Conflict: it is not active.
        """
        number = await asyncio.to_thread(self._webhooks.redeliver, webhook_id, ids, time.time())
        self._wake()
        return number

    async def test_webhook(self, webhook_id: str) -> str:
        """Send a message of type `webhook.test`; gives its id.

        Raises:
            NotFound: there is no such webhook.
            Conflict: it is not active.
        """
        message_id = await asyncio.to_thread(self._webhooks.test, webhook_id, time.time())
        self._wake()
        return message_id

    def _take_webhooks(self, settings: FeedsSettings) -> None:
        assert self._poster is not None
        assert self._deliverer is not None
        self._poster.reconfigure(settings)
        self._outbox.set(settings.webhooks)
        self._deliverer.reconfigure(settings.webhooks)

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.wake()
        if self._deliverer is not None:
            self._deliverer.wake()

    async def _ask(self, article: Article, settings: FeedsSettings) -> Answer:
        summary = settings.summary
        sampling = Sampling(max_tokens=summary.max_tokens, frequency_penalty=summary.frequency_penalty)
        return await self._asked(f"article-{article.id}", sampling, question(article, summary), article.attempts, article.feed_id)

    async def _ask_daily(self, digest: DailyDigest, messages: tuple[Message, ...], settings: FeedsSettings) -> Answer:
        sampling = Sampling(max_tokens=settings.digest.max_tokens, frequency_penalty=settings.digest.frequency_penalty)
        return await self._asked(f"digest-{digest.date}", sampling, messages, digest.attempts)

    async def _asked(self, what: str, sampling: Sampling, messages: tuple[Message, ...], attempts: int, feed_id: str = "") -> Answer:
        if attempts:  # the greedy answer was not accepted, and would come out of the cache again
            sampling = replace(sampling, temperature=RETRY_TEMPERATURE, seed=attempts)
        generate = Generate(f"{what}-{uuid.uuid4().hex[:8]}", self._model, sampling, messages, priority="batch")
        return await self._answer(Ask(generate, feed_id=feed_id))
