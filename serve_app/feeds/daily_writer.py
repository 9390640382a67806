"""Writes the daily digests: when a day is over, one question per tag, one at a time, behind everything else.

    day over --> a pending row per tag --> ask --> done (and told to webhooks) | empty | again later | failed

A digest that fails is not replaced by something made up; it says that it failed. Tests: tests/fast/test_feeds_daily_writer.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from serve_app.errors import Cancelled, ContextLengthExceeded, DatabaseUnavailable, FrugalError, GenerationFailed, Overloaded, Unavailable
from serve_app.feeds import daily
from serve_app.feeds.acceptance import objection
from serve_app.feeds.decide import next_try
from serve_app.messages import REUSED, Answer, Message
from serve_app.messages_feeds import Article, DailyDigest
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.daily import DailyStore
from serve_app.store.leases import LeaseLost

log = logging.getLogger(__name__)

AskDigest = Callable[[DailyDigest, tuple[Message, ...], FeedsSettings], Awaitable[Answer]]
IDLE_WAIT_S = 10.0
SETTLE_S = 30.0  # after a day's end: a summary that was dated before it may be stored a moment later
PAUSE_S = 5.0  # after a refusal that names no time
MAX_ARTICLES = 2_000  # of a day, the newest, among which those with a tag are looked for
MIN_WORDS = 20  # below this a question that is too long for the model is not shortened further


class DailyWriter:
    """Writes for one holder of the lease; `ask` gets a whole answer, `model` names who writes."""

    def __init__(
        self,
        store: DailyStore,
        ask: AskDigest,
        metrics: Metrics,
        holder: str,
        now: Callable[[], float],
        settings: FeedsSettings,
        *,
        model: str = "",
        idle_wait_s: float = IDLE_WAIT_S,
    ) -> None:
        self._store = store
        self._ask = ask
        self._metrics = metrics
        self._holder = holder
        self._now = now
        self._settings = settings
        self._model = model
        self._idle_wait_s = idle_wait_s
        self._woken = asyncio.Event()
        self._begun: tuple[str, tuple[str, ...]] | None = None

    def reconfigure(self, settings: FeedsSettings) -> None:
        """Use these settings from the next digest on."""
        self._settings = settings
        self.wake()

    def wake(self) -> None:
        """Look now what is due."""
        self._woken.set()

    async def run(self) -> None:
        """Write what is due, for ever.

        Raises:
            LeaseLost: another replica writes now.
        """
        self._begun = None
        while True:
            try:
                await self._turn(self._settings)
            except (LeaseLost, DatabaseUnavailable):
                raise
            except Exception:  # feeds are checked and articles summarised all the same
                log.exception("the daily digests failed; trying again in %g s", self._idle_wait_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle_wait_s):
                    await self._woken.wait()
            self._woken.clear()

    async def _turn(self, settings: FeedsSettings) -> None:
        wanted = settings.digest
        day = daily.last_day(self._now() - SETTLE_S, wanted)
        if self._begun != (day.date, wanted.tags):
            await asyncio.to_thread(self._store.begin, self._holder, day.date, wanted.tags, self._now())
            self._begun = (day.date, wanted.tags)
        if wanted.tags:
            await self._write_due(day, settings)

    async def _write_due(self, day: daily.Day, settings: FeedsSettings) -> None:
        due = await asyncio.to_thread(self._store.due, day.date, settings.digest.tags, self._now())
        if not due:
            return
        found = await asyncio.to_thread(self._store.summarised, day.since, day.until, MAX_ARTICLES)
        for digest in due:
            written = await self._write(digest, found, settings)
            self._metrics.inc("frugal_daily_digests_total", result="retry" if written.state == "pending" else written.state)
            await asyncio.to_thread(self._store.record, self._holder, written)

    async def _write(self, digest: DailyDigest, found: tuple[Article, ...], settings: FeedsSettings) -> DailyDigest:
        """What becomes of a pending digest."""
        choice = daily.choose(found, digest.tag, settings.digest.max_words)
        if not choice.articles:
            return replace(digest, state="empty", next_try_at=None, reason=None, updated_at=self._now())
        try:
            choice, answer = await self._answer(digest, choice, settings)
        except FrugalError as error:
            return self._again(digest, error, settings)
        finish, was_free = answer.finish, answer.opening.outcome in REUSED
        return replace(
            digest,
            state="done",
            text=daily.paragraph(answer.text, finish.reason),
            article_ids=tuple(article.id for article in choice.articles),
            reason=None,
            next_try_at=None,
            model=self._model,
            prompt_tokens=finish.usage.prompt_tokens,
            completion_tokens=finish.usage.completion_tokens,
            compute_s=0.0 if was_free else finish.compute_s,
            cost_usd=0.0 if was_free else finish.cost_usd,
            updated_at=self._now(),
        )

    async def _answer(self, digest: DailyDigest, choice: daily.Choice, settings: FeedsSettings) -> tuple[daily.Choice, Answer]:
        """An accepted answer and what it is about: fewer articles where all were too long for the model.

        Raises:
            FrugalError: there is none.
        """
        max_words = settings.digest.max_words
        while True:
            try:
                answer = await self._asked(digest, daily.question(choice, digest.tag, digest.date, settings.digest), settings)
            except ContextLengthExceeded:
                max_words //= 2
                if max_words < MIN_WORDS or len(choice.articles) == 1:
                    raise
                choice = daily.choose(choice.articles, digest.tag, max_words)
                continue
            if answer.finish.reason == "cancelled":
                raise Cancelled("the generation was given up before its end")
            if (reason := objection(answer.text, settings.digest.template, "\n".join(choice.lines))) is not None:
                raise GenerationFailed(reason)
            return choice, answer

    async def _asked(self, digest: DailyDigest, messages: tuple[Message, ...], settings: FeedsSettings) -> Answer:
        try:
            return await self._ask(digest, messages, settings)
        except FrugalError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the loop is stopping; the digest stays pending
            raise Cancelled("the request was given up by the graph") from None
        except Exception as error:
            log.exception("daily digest of %s, %s: asking failed", digest.date, digest.tag)
            raise GenerationFailed(f"unexpected error ({type(error).__name__}); the log has the cause") from error

    def _again(self, digest: DailyDigest, error: FrugalError, settings: FeedsSettings) -> DailyDigest:
        """Where the graph is the reason, no try is counted."""
        now = self._now()
        if isinstance(error, Overloaded | Unavailable | Cancelled):
            later = now + (PAUSE_S if error.retry_after_s is None else max(0.1, error.retry_after_s))
            return replace(digest, reason=error.message, next_try_at=later, updated_at=now)
        attempts = digest.attempts + 1
        again_at = None if isinstance(error, ContextLengthExceeded) else next_try(attempts, now, settings)
        state = digest.state if again_at is not None else "failed"
        return replace(digest, state=state, reason=error.message, attempts=attempts, next_try_at=again_at, updated_at=now)
