"""One article's way to its summary: ask, accept, store; or a reason and a next try.

Where the graph is the reason (full, loading, stopping), no try is counted and `paused_until` tells the loop to hold back for a while.
Tests: tests/fast/test_feeds_loop.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from serve_app import faults
from serve_app.errors import Cancelled, ContextLengthExceeded, FrugalError, GenerationFailed, Overloaded, Unavailable
from serve_app.feeds import digest
from serve_app.feeds.acceptance import objection
from serve_app.feeds.decide import next_try
from serve_app.feeds.prompt import clean, for_feed, is_long, pieces
from serve_app.feeds.sentences import told_once
from serve_app.messages import REUSED, Answer
from serve_app.messages_feeds import Article, Summary
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import ArticleStore

log = logging.getLogger(__name__)

AskFor = Callable[[Article, FeedsSettings], Awaitable[Answer]]
MAX_DEPTH = 3  # of summaries of summaries; what is still too long then is cut
PAUSE_S = 5.0  # after a refusal that names no time; a loading model takes some 20 s, and asking costs next to nothing


class Summariser:
    """Summarises articles for one holder of the lease."""

    def __init__(self, store: ArticleStore, ask: AskFor, metrics: Metrics, holder: str, now: Callable[[], float], model: str) -> None:
        self._store = store
        self._model = model
        self._ask = ask
        self._metrics = metrics
        self._holder = holder
        self._now = now
        self.paused_until = float("-inf")

    async def summarise(self, article: Article, settings: FeedsSettings) -> None:
        """Ask for one summary and store it, or why there is none.

        Raises:
            LeaseLost: another replica may write now.
        """
        faults.at("article taken up")
        error = await self._try(article, settings)
        if error is None:
            self._metrics.inc("frugal_summaries_total", result="done")
        elif isinstance(error, Overloaded | Unavailable | Cancelled):
            await self._postpone(article, error, settings)
        else:
            await self._fail(article, error, settings)

    async def _try(self, article: Article, settings: FeedsSettings) -> FrugalError | None:
        try:
            options = await asyncio.to_thread(self._store.options_of, article.feed_id)
            settings = settings.model_copy(update={"summary": for_feed(settings.summary, options)})
            answer = await self._answer(article, settings)
        except FrugalError as error:
            return error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the loop is stopping; the article stays pending
            return Cancelled("the request was given up by the graph")
        except Exception as error:
            log.exception("article %s: asking failed", article.id)
            return GenerationFailed(f"unexpected error ({type(error).__name__}); the log has the cause")
        summary = summary_of(article, answer, self._model, settings, self._now())
        # False where the article changed meanwhile: it is pending again and comes back by itself.
        await asyncio.to_thread(self._store.record_result, self._holder, article.id, article.text_hash, summary)
        faults.at("result stored")
        return None

    async def _answer(self, article: Article, settings: FeedsSettings, depth: int = 0) -> Answer:
        """One answer for the whole article: where it is long and every part counts, of the answers for its parts.

        Raises:
            Cancelled: a generation was given up.
            GenerationFailed: an answer is no summary.
        """
        prompt, spent = settings.summary, []
        if prompt.long_articles == "map_reduce" and depth < MAX_DEPTH and is_long(article.best_text, prompt.max_words):
            for part in pieces(article.best_text, prompt.max_words, prompt.max_parts):
                spent.append(await self._part(replace(article, text=part, page_text=""), settings))
            joined = "\n".join(clean(digest.parts(answer.text).summary, answer.finish.reason) for answer in spent)
            spent.append(await self._answer(replace(article, text=joined, page_text=""), settings, depth + 1))
            return _sum(spent)
        answer = await self._ask(article, settings)
        faults.at("answer received")
        if answer.finish.reason == "cancelled":
            raise Cancelled("the generation was given up before its end")
        if (reason := objection(answer.text, prompt.template, f"{article.title}\n{article.best_text}")) is not None:
            raise GenerationFailed(reason)
        return answer

    async def _part(self, part: Article, settings: FeedsSettings) -> Answer:
        """An answer for one part: the greedy one, which the cache has after the first try of the article, or if that was not accepted
        another draw. Asking for all parts in another way would compute the good ones again."""
        try:
            return await self._answer(replace(part, attempts=0), settings, MAX_DEPTH)
        except GenerationFailed:
            if not part.attempts:
                raise
        return await self._answer(part, settings, MAX_DEPTH)

    async def _postpone(self, article: Article, error: FrugalError, settings: FeedsSettings) -> None:
        later = self._now() + (min(PAUSE_S, settings.retry_base_s) if error.retry_after_s is None else max(0.1, error.retry_after_s))
        self.paused_until = max(self.paused_until, later)
        self._metrics.inc("frugal_summaries_total", result="retry")
        await asyncio.to_thread(self._store.postpone, self._holder, article.id, article.text_hash, error.message, later)
        faults.at("article postponed")

    async def _fail(self, article: Article, error: FrugalError, settings: FeedsSettings) -> None:
        now, attempts = self._now(), article.attempts + 1
        # A text that does not fit now will not fit later either.
        later = None if isinstance(error, ContextLengthExceeded) else next_try(attempts, now, settings)
        self._metrics.inc("frugal_summaries_total", result="failed" if later is None else "retry")
        await asyncio.to_thread(
            self._store.record_article_failure, self._holder, article.id, article.text_hash, error.message, attempts, later, now
        )
        faults.at("failed try stored")


def _sum(answers: Sequence[Answer]) -> Answer:
    """The last answer with what all of them took; those that came from the cache took nothing."""
    made = [answer for answer in answers if answer.opening.outcome not in REUSED]
    last = answers[-1]
    usage = replace(
        last.finish.usage,
        prompt_tokens=sum(answer.finish.usage.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.finish.usage.completion_tokens for answer in answers),
    )
    compute_s, cost_usd = (sum(getattr(answer.finish, name) for answer in made) for name in ("compute_s", "cost_usd"))
    opening = replace(last.opening, outcome=made[-1].opening.outcome if made else last.opening.outcome)
    return replace(last, opening=opening, finish=replace(last.finish, usage=usage, compute_s=compute_s, cost_usd=cost_usd))


def summary_of(article: Article, answer: Answer, model: str, settings: FeedsSettings, now: float) -> Summary:
    """What is stored of an answer. A stored or shared answer cost this article nothing; its tokens are kept as they were."""
    finish, outcome = answer.finish, answer.opening.outcome
    was_free = outcome in REUSED
    parts, told = digest.parts(answer.text), f"{article.title}\n{article.best_text}"
    once = told_once(parts.summary, article.title, settings.summary.template, told)
    text = clean(once, finish.reason, article.title)
    tags, tags_from = digest.tags(parts.tags, article.categories, settings.summary.tags, told)
    grounding = digest.grounding(text, told)
    return Summary(
        text=text,
        headline=digest.headline(parts.headline, text),
        tags=tags,
        tags_from=tags_from,
        grounding=grounding.share,
        missing=grounding.missing,
        model=model,
        prompt_version=settings.summary.version,
        prompt_template=settings.summary.template,
        text_hash=article.text_hash,
        cache=outcome,
        prompt_tokens=finish.usage.prompt_tokens,
        completion_tokens=finish.usage.completion_tokens,
        compute_s=0.0 if was_free else finish.compute_s,
        cost_usd=0.0 if was_free else finish.cost_usd,
        created_at=now,
    )
