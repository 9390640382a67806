"""What the routes need, over the graph's calls and the database: reads come straight from the store, so that they work while Feeds is down.

Knows the graph only as `Calls`, so that tests need no Ray. Tests: tests/fast/test_graph_services.py, tests/ray.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

from serve_app.cache.books import flush
from serve_app.cache.holdings import Holdings
from serve_app.cache.replays import Replays, as_items
from serve_app.cache.similar.backoff import section
from serve_app.cache.stored import StoredAnswers
from serve_app.costs import report
from serve_app.drain import Drain
from serve_app.errors import Overloaded, Stopping
from serve_app.feeds.websub import Verification
from serve_app.live import Live
from serve_app.messages import Answer, Ask, Item, ModelCard, Selection
from serve_app.messages_feeds import (
    Article,
    ArticlePage,
    ArticleQuery,
    DailyDigest,
    DailyPage,
    DailyQuery,
    Feed,
    Probe,
    Rerun,
    RerunPreview,
)
from serve_app.metrics import Metrics, Snapshot, render
from serve_app.settings import AppSettings, IngressSettings
from serve_app.store.articles import ArticleStore
from serve_app.store.daily import DailyStore
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger
from serve_app.store.open_answers import open_answers
from serve_app.store.similar import SimilarStore
from serve_app.store.webhooks import Delivery, Health, WebhookStore

log = logging.getLogger(__name__)

CARD_RETRY_S = 2.0
FLUSH_S = 1.0
MAX_REPLAY_BYTES = 16_000_000  # what of the hottest answers is worth remembering for some seconds
SEEN_S = 5.0  # a replica whose books are older than this is not loading any more
SERVING = ("HEALTHY", "UPSCALING", "DOWNSCALING")
BROKEN = ("UNHEALTHY", "DEPLOY_FAILED")  # a message of any other status is a remark of Serve, not an error


class GraphCalls(Protocol):
    """The other deployments."""

    async def card(self) -> ModelCard: ...

    async def answer(self, ask: Ask) -> Answer: ...

    def stream(self, ask: Ask) -> AsyncGenerator[Item, None]: ...

    async def feeds(self, method: str, *args: Any) -> Any: ...

    async def broadcast(self, method: str) -> list[Any]: ...

    async def forget(self, selection: Selection) -> int: ...

    async def deployments(self) -> dict[str, tuple[str, str]]: ...


class GraphServices:
    """See api/services.py for what each method does."""

    def __init__(self, app: AppSettings, settings: Live[IngressSettings], calls: GraphCalls) -> None:
        self._app = app
        self._settings = settings
        self._calls = calls
        self._database = Database(app.database)
        self._articles = ArticleStore(self._database)
        self._webhooks = WebhookStore(self._database)
        self._daily = DailyStore(self._database)
        self._ledger = Ledger(self._database)
        self._cards: tuple[ModelCard, ...] = ()
        self._num_asking = 0
        self._refusing = False
        self._flushing = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._drain = Drain(time.monotonic)
        self._task: asyncio.Task[None] | None = None
        self.own_metrics = Metrics()
        self._replays = Replays(MAX_REPLAY_BYTES, self.own_metrics, time.time)
        self.stored = StoredAnswers(open_answers(app, self._database), calls.forget)
        self._holdings = Holdings(self.stored.groups)

    @property
    def settings(self) -> IngressSettings:
        return self._settings.value

    def start(self) -> None:
        """Begin to ask for the model's card, and to keep the books of what is replayed here."""
        self._task = asyncio.create_task(self._learn_card())
        self._keeper = asyncio.create_task(self._keep_books())

    async def stop(self) -> None:
        """Give the database back."""
        for task in (self._task, self._keeper):
            if task is not None:
                task.cancel()
        await self.flush()
        self._holdings.close()
        self.stored.close()
        self._database.close()

    async def flush(self) -> None:
        """Bring the books of what was replayed to the ledger. What cannot be stored stays for the next time."""
        async with self._flushing:
            await flush(self._replays.books, self._ledger)

    def refuse_new(self) -> float:
        """From now on nobody may ask for an answer: the program stops. Seconds that the running ones may still take."""
        self._refusing = True
        return self.settings.drain_s

    @property
    def num_running(self) -> int:
        """Answers that somebody waits for."""
        return self._num_asking

    def model_ids(self) -> tuple[str, ...]:
        return (self._app.model.id,)

    async def cards(self) -> tuple[ModelCard, ...]:
        return self._cards

    async def answer(self, ask: Ask) -> Answer:
        with self._counted():
            if (found := self._replays.find(ask)) is not None:
                return found
            answer = await self._calls.answer(ask)
            self._replays.keep(ask, answer)
            return answer

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        with self._counted():
            if (found := self._replays.find(ask)) is not None:
                for item in as_items(found):
                    yield item
                return
            async with aclosing(self._calls.stream(ask)) as items:
                async for item in self._replays.noted(ask, items):
                    yield item

    async def articles(self, q: ArticleQuery) -> ArticlePage:
        return await asyncio.to_thread(self._articles.query, q)

    async def article(self, id: str) -> Article:
        return await asyncio.to_thread(self._articles.article, id)

    async def retry_article(self, id: str) -> Article:
        article: Article = await self._calls.feeds("retry_article", id)
        return article

    async def rerun_articles(self, rerun: Rerun, dry_run: bool) -> RerunPreview:
        preview: RerunPreview = await self._calls.feeds("rerun_articles", rerun, dry_run)
        return preview

    async def retry_digest(self, date: str, tag: str) -> DailyDigest:
        digest: DailyDigest = await self._calls.feeds("retry_digest", date, tag)
        return digest

    async def digests(self, q: DailyQuery) -> DailyPage:
        return await asyncio.to_thread(self._daily.query, q)

    async def feeds(self) -> tuple[Feed, ...]:
        return tuple(await asyncio.to_thread(self._articles.feeds))

    async def add_feed(self, url: str, options: dict[str, Any]) -> Feed:
        feed: Feed = await self._calls.feeds("add_feed", url, options)
        return feed

    async def change_feed(self, id: str, options: dict[str, Any], paused: bool | None = None) -> Feed:
        feed: Feed = await self._calls.feeds("change_feed", id, options, paused)
        return feed

    async def remove_feed(self, id: str) -> None:
        await self._calls.feeds("remove_feed", id)

    async def refresh_feed(self, id: str) -> Feed:
        feed: Feed = await self._calls.feeds("refresh_feed", id)
        return feed

    async def check_feed(self, url: str) -> Probe:
        found: Probe = await self._calls.feeds("check_feed", url)
        return found

    async def verify_push(self, id: str, token: str, asked: Verification) -> str:
        challenge: str = await self._calls.feeds("verify_push", id, token, asked)
        return challenge

    async def take_push(self, id: str, token: str, body: bytes, content_type: str | None, signature: str) -> None:
        await self._calls.feeds("take_push", id, token, body, content_type, signature)

    async def webhooks(self) -> tuple[Health, ...]:
        return await asyncio.to_thread(self._webhooks.health)

    async def dead_letters(self, id: str, limit: int) -> tuple[Delivery, ...]:
        return await asyncio.to_thread(self._webhooks.dead, id, limit)

    async def redeliver(self, id: str, ids: tuple[str, ...] | None) -> int:
        return int(await self._calls.feeds("redeliver", id, ids))

    async def test_webhook(self, id: str) -> str:
        return str(await self._calls.feeds("test_webhook", id))

    async def report(self) -> dict[str, Any]:
        await self._calls.broadcast("flush")  # so that the books are those of this moment
        snapshots = await self._snapshots()
        rows, replicas = await asyncio.to_thread(lambda: (self._ledger.rows(), self._ledger.replicas()))
        trials = await asyncio.to_thread(SimilarStore(self._database).trials)
        found = report(rows, replicas, snapshots, time.time(), await self._holdings.latest())
        return {**found, "similar": section(trials)}

    async def metrics(self) -> str:
        return render(await self._snapshots())

    async def ready(self) -> dict[str, Any]:
        deployments = await self._calls.deployments()
        phases = await asyncio.to_thread(self._phases)
        waiting = [f"{name}: {_words(status)}" for name, (status, _message) in sorted(deployments.items()) if status not in SERVING]
        waiting += [f"model {self._app.model.id}: {phase}" for phase in phases]
        if not self._cards and not waiting:
            waiting.append(f"model {self._app.model.id}: starting")
        errors = [f"{name}: {message}" for name, (status, message) in sorted(deployments.items()) if message and status in BROKEN]
        errors += [problem for error in await self._calls.broadcast("settings_error") if error for problem in error.splitlines()]
        return {"ready": bool(self._cards) and not waiting, "waiting_for": waiting, "errors": errors}

    def admin_key_sha256(self) -> str | None:
        return self._app.admin_key_sha256(self.settings)

    def forget(self, selection: Selection) -> None:
        """These were deleted from the store. Of what is replayed here everything goes: it is back within moments."""
        self._replays.clear()

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self.own_metrics.inc("frugal_http_requests_total", method=method, route=route, status=str(status))
        self.own_metrics.observe("frugal_http_request_seconds", seconds, route=route)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """One request for an answer; the others of this replica (pages, health) must always find room beside them."""
        if self._refusing:
            raise Stopping
        if self._num_asking >= self.settings.max_in_flight:
            message = f"{self._num_asking} requests are being answered, the most this replica takes; try again later"
            raise Overloaded(message, retry_after_s=self._drain.retry_after_s())
        self._num_asking += 1
        try:
            yield
        finally:
            self._num_asking -= 1
            self._drain.ended()

    async def _snapshots(self) -> list[Snapshot]:
        return list(await self._calls.broadcast("snapshot"))

    def _phases(self) -> list[str]:
        """What loading replicas are doing; nothing where one is ready."""
        replicas = self._ledger.replicas(since=time.time() - SEEN_S)
        phases = [replica.phase for replica in replicas if replica.stopped_at is None or replica.phase.startswith("failed")]
        return [] if "ready" in phases else phases[-1:]

    async def _keep_books(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except Exception:
                log.exception("cannot keep the books; trying again")

    async def _learn_card(self) -> None:
        while True:
            try:
                self._cards = (await self._calls.card(),)
                return
            except Exception as error:
                log.info("the model's card is not there yet: %s", error)
                await asyncio.sleep(CARD_RETRY_S)


def _words(status: str) -> str:
    return status.lower().replace("_", " ")
