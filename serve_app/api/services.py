"""What the routes need from the graph, as one protocol, so that the HTTP side runs and is tested without Ray.

Every method may raise a `FrugalError`, which becomes its status and error JSON; anything else becomes a 500 that shows an id.
The graph implements this over its handles; tests/fast/fakes_api.py implements it over lists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from serve_app.cache.stored import StoredAnswers
from serve_app.feeds.websub import Verification
from serve_app.messages import Answer, Ask, Item, ModelCard
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
from serve_app.settings import IngressSettings
from serve_app.store.webhooks import Delivery, Health


class Services(Protocol):
    """The graph as the routes see it."""

    @property
    def settings(self) -> IngressSettings:
        """The settings of this moment; read anew for every request."""
        ...

    def model_ids(self) -> tuple[str, ...]:
        """The ids that may stand in a request's `model`, known from the configuration before any weights are loaded."""
        ...

    async def cards(self) -> tuple[ModelCard, ...]:
        """The loaded models, perhaps none yet. Asked once per completion, so it answers from memory."""
        ...

    async def answer(self, ask: Ask) -> Answer:
        """A whole answer. Cancelling the call gives the caller's part in the generation up."""
        ...

    def stream(self, ask: Ask) -> AsyncIterator[Item]:
        """An `Opening`, then chunks, then a `Finish` or `Failed`. Closing the iterator gives the caller's part up."""
        ...

    async def articles(self, q: ArticleQuery) -> ArticlePage:
        """One page, newest first, each with an empty text. Raises BadRequest for a cursor that it did not hand out."""
        ...

    async def article(self, id: str) -> Article:
        """Raises NotFound."""
        ...

    async def retry_article(self, id: str) -> Article:
        """Ask for its summary again. Raises NotFound, and Conflict for one that is neither failed nor skipped."""
        ...

    async def rerun_articles(self, rerun: Rerun, dry_run: bool) -> RerunPreview:
        """Summarise articles again, or with `dry_run` say what that would cost. Raises NotFound for a feed that is none."""
        ...

    async def retry_digest(self, date: str, tag: str) -> DailyDigest:
        """Ask for a failed one again. Raises NotFound, and Conflict for one that has not failed or is not of the last day."""
        ...

    async def digests(self, q: DailyQuery) -> DailyPage:
        """One page of daily digests, newest first. Raises BadRequest for a cursor that it did not hand out."""
        ...

    async def feeds(self) -> tuple[Feed, ...]:
        """All feeds with their health."""
        ...

    async def add_feed(self, url: str, options: dict[str, Any]) -> Feed:
        """`options` as FeedOptions writes them. Raises Conflict where the feed exists, BadRequest for an address that no feed can have."""
        ...

    async def change_feed(self, id: str, options: dict[str, Any], paused: bool | None = None) -> Feed:
        """An option of None is as for all feeds again; `paused`: a person pauses it or lets it go on. Raises NotFound, and Conflict for
        options of a feed that the configuration names."""
        ...

    async def remove_feed(self, id: str) -> None:
        """Raises NotFound, and Conflict for a feed that the configuration names."""
        ...

    async def refresh_feed(self, id: str) -> Feed:
        """Make the feed due now. Raises NotFound."""
        ...

    async def check_feed(self, url: str) -> Probe:
        """What a check of this address would do; nothing is stored. Raises Overloaded where too many of these run."""
        ...

    async def verify_push(self, id: str, token: str, asked: Verification) -> str:
        """The challenge for a feed's hub. Raises NotFound where nobody wants this subscription."""
        ...

    async def take_push(self, id: str, token: str, body: bytes, content_type: str | None, signature: str) -> None:
        """What a feed's hub sends. Raises NotFound where there is no such subscription."""
        ...

    async def webhooks(self) -> tuple[Health, ...]:
        """Every webhook with its health."""
        ...

    async def dead_letters(self, id: str, limit: int) -> tuple[Delivery, ...]:
        """What a webhook's receiver did not take, the newest first. Raises NotFound."""
        ...

    async def redeliver(self, id: str, ids: tuple[str, ...] | None) -> int:
        """Send dead letters again, all or these. Raises NotFound, and Conflict for a webhook that is not active."""
        ...

    async def test_webhook(self, id: str) -> str:
        """Send a test message; its id. Raises NotFound, and Conflict for a webhook that is not active."""
        ...

    async def report(self) -> dict[str, Any]:
        """What was asked, spent and avoided, in sections; sent as JSON as it is."""
        ...

    async def metrics(self) -> str:
        """The Prometheus text of all replicas."""
        ...

    async def ready(self) -> dict[str, Any]:
        """`{"ready": bool, "waiting_for": [plain words], "errors": [plain words]}`."""
        ...

    @property
    def stored(self) -> StoredAnswers:
        """What the administrator may do with the stored answers."""
        ...

    def admin_key_sha256(self) -> str | None:
        """Of the administrator's key, read anew for every request; None where there is none."""
        ...

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request, under its route template and never under its path."""
        ...
