"""The graph as the routes see it, over plain lists, with verbs for what a test wants to happen.

services = FakeServices()
services.will_say("Hello", " world")    # chunks of the next answers
services.will_refuse(Overloaded(...))   # ... or an error before the first item
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.cache.stored import StoredAnswers
from serve_app.errors import Conflict, FrugalError, NotFound
from serve_app.feeds.websub import Verification
from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import Answer, Ask, Chunk, Failed, Finish, FinishReason, Item, ModelCard, Opening, Outcome, Usage
from serve_app.messages_feeds import (
    Article,
    ArticlePage,
    ArticleQuery,
    DailyDigest,
    DailyPage,
    DailyQuery,
    Expected,
    Feed,
    Probe,
    ProbeStep,
    Rerun,
    RerunPreview,
    Summary,
)
from serve_app.settings import IngressSettings
from serve_app.store.webhooks import Delivery, Health

MODEL = "tiny/model"
KEY = "a" * 64

CARD = ModelCard(
    id=MODEL,
    source="./tiny",
    revision="1",
    architecture="TinyForCausalLM",
    quantization="nf4",
    dtype="bfloat16",
    device="cpu",
    fingerprint="0123456789abcdef" * 4,
    max_context=128,
    num_parameters=1000,
    weights_bytes=500,
    alone_prefill_tokens_per_s=1000.0,
    alone_decode_step_s=0.02,
    loaded_at=1_700_000_000.5,
)


def finish(reason: FinishReason = "stop", num_tokens: int = 2) -> Finish:
    """An ending with figures that tests can tell apart."""
    return Finish(
        reason=reason,
        usage=Usage(prompt_tokens=7, completion_tokens=num_tokens, cached_tokens=4),
        compute_s=0.5,
        alone_s=0.8,
        queue_s=0.01,
        ttft_s=0.1,
        duration_s=0.6,
        batch_size=3,
        cost_usd=0.000007,
    )


def feed(id: str = "feed0", **changes: Any) -> Feed:
    """A healthy feed of the configuration."""
    plain = Feed(id, "https://example.org/feed.xml", "config", "ok", "Example", created_at=1_700_000_000.0, next_check_at=1_700_003_600.0)
    return replace(plain, **changes)


def article(id: str = "a0", **changes: Any) -> Article:
    """A summarised article."""
    plain = Article(
        id=id,
        feed_id="feed0",
        guid=f"guid-{id}",
        link=f"https://example.org/{id}",
        title=f"Title {id}",
        author="Ada",
        published_at=1_700_000_000.0,
        first_seen_at=1_700_000_100.0,
        updated_at=1_700_000_200.0,
        text="First paragraph.\n\nSecond paragraph.",
        text_hash="h" * 64,
        state="done",
        summary=summary(),
    )
    return replace(plain, **changes)


def digest(tag: str = "*", **changes: Any) -> DailyDigest:
    """A day's digest."""
    plain = DailyDigest("2026-11-25", tag, "done", "What a day.", ("a0",), None, 0, None, MODEL, 90, 30, 2.5, 0.001, 1_795_590_000.0)
    return replace(plain, **changes)


def summary(text: str = "A short summary.") -> Summary:
    """What the model wrote about `article()`."""
    return Summary(text, MODEL, "1", "{title} {text}", "h" * 64, "miss", 120, 20, 0.7, 0.00001, 1_700_000_300.0)


@dataclass
class FakeServices:
    """Answers from what it was told; `asked` and `observed` say what reached it."""

    settings: IngressSettings = field(default_factory=IngressSettings)
    loaded: tuple[ModelCard, ...] = (CARD,)
    asked: list[Ask] = field(default_factory=list)
    queried: list[ArticleQuery] = field(default_factory=list)
    observed: list[tuple[str, str, int]] = field(default_factory=list)
    verified: list[Verification] = field(default_factory=list)
    changed: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    pushed: list[tuple[bytes, str | None, str]] = field(default_factory=list)
    reruns: list[tuple[Rerun, bool]] = field(default_factory=list)
    preview: RerunPreview = field(default_factory=lambda: RerunPreview(True, 3, 5, 1, Expected(900, 300, 12.5, 0.0002)))
    all_articles: list[Article] = field(default_factory=list)
    all_digests: list[DailyDigest] = field(default_factory=list)
    all_feeds: dict[str, Feed] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=lambda: {"ready": True, "waiting_for": [], "errors": []})
    the_report: dict[str, Any] = field(default_factory=dict)
    the_stored: StoredAnswers | None = None
    key_sha256: str | None = None
    probe_ok: bool = True
    all_webhooks: list[Health] = field(default_factory=list)
    dead: list[Delivery] = field(default_factory=list)
    sent_again: list[tuple[str, tuple[str, ...] | None]] = field(default_factory=list)
    broken: dict[str, Exception] = field(default_factory=dict)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    _opening: Opening = field(default_factory=lambda: Opening("miss", KEY))
    _items: list[Item] = field(default_factory=lambda: [Chunk("Hello", 1), Chunk(" world", 1), finish()])
    _bad_choices: dict[str, FrugalError] = field(default_factory=dict)
    _hangs: bool = False
    _crash: Exception | None = None

    # What a test wants to happen

    def will_say(self, *texts: str, reason: FinishReason = "stop") -> None:
        """Answer with these chunks of one token each."""
        self._items = [*(Chunk(text, 1) for text in texts), finish(reason, len(texts))]

    def will_open(self, outcome: Outcome, age_s: float | None = None) -> None:
        """Say that the answer was made like this."""
        self._opening = Opening(outcome, KEY, age_s)

    def will_refuse(self, error: Exception) -> None:
        """Raise before the first item."""
        self.broken["stream"] = self.broken["answer"] = error

    def will_break(self, error: FrugalError, after: int = 1) -> None:
        """End in a Failed after so many chunks."""
        self._items = [*self._items[:after], Failed(error)]

    def will_tell_logprobs(self) -> None:
        """Say "Hello" and " world" with log-probabilities of -0.5, where another token had -0.25."""
        best = (Candidate(b"best", -0.25),)
        told = [TokenLogprob(Candidate(word.encode(), -0.5), best, at) for word, at in (("Hello", 0), (" world", 5))]
        self._items = [*(Chunk(entry.chosen.token, 1, (entry,)) for entry in told), finish()]

    def will_refuse_choice(self, number: int, error: FrugalError) -> None:
        """Let that one of several choices (1, 2, ...) end in a Failed, or be refused."""
        self._bad_choices[f".{number}"] = error

    def will_stop_short(self, after: int = 1) -> None:
        """Stop without any ending after so many chunks."""
        self._items = self._items[:after]

    def will_crash(self, error: Exception, after: int = 1) -> None:
        """Raise a bug after so many chunks."""
        self._items, self._crash = self._items[:after], error

    def will_hang(self, after: int = 1) -> None:
        """Wait for ever after so many chunks."""
        self._items, self._hangs = self._items[:after], True

    def break_part(self, name: str, error: Exception) -> None:
        """Let one of the other calls raise."""
        self.broken[name] = error

    # What the routes call

    def model_ids(self) -> tuple[str, ...]:
        return (MODEL,)

    async def cards(self) -> tuple[ModelCard, ...]:
        self._fail("cards")
        return self.loaded

    async def answer(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        self._fail("answer")
        if bad := self._bad_choice(ask):
            raise bad
        text, end = "", None
        logprobs: tuple[TokenLogprob, ...] = ()
        try:
            for item in self._items:
                if isinstance(item, Failed):
                    raise item.error
                if isinstance(item, Chunk):
                    text += item.text
                    logprobs += item.logprobs
                else:
                    end = item
            await self._go_on()
        finally:
            self.closed.set()
        assert isinstance(end, Finish)
        return Answer(self._opening, text, end, logprobs)

    async def stream(self, ask: Ask) -> AsyncIterator[Item]:
        self.asked.append(ask)
        self._fail("stream")
        try:
            yield self._opening
            if bad := self._bad_choice(ask):
                yield Failed(bad)
            for item in self._items:
                yield item
            await self._go_on()
        finally:
            self.closed.set()

    async def articles(self, q: ArticleQuery) -> ArticlePage:
        self.queried.append(q)
        self._fail("articles")
        start = int(q.cursor or 0)
        found = [a for a in self.all_articles if q.state in (None, a.state) and (q.text or "").lower() in a.title.lower()]
        end = start + q.limit
        return ArticlePage(tuple(found[start:end]), str(end) if end < len(found) else None)

    async def article(self, id: str) -> Article:
        self._fail("article")
        for known in self.all_articles:
            if known.id == id:
                return known
        raise NotFound(f"there is no article {id}")

    async def retry_article(self, id: str) -> Article:
        known = await self.article(id)
        if known.state not in ("failed", "skipped"):
            raise Conflict(f"this article is {known.state}")
        again = replace(known, state="pending", reason=None, next_try_at=None)
        self.all_articles[self.all_articles.index(known)] = again
        return again

    async def rerun_articles(self, rerun: Rerun, dry_run: bool) -> RerunPreview:
        self._fail("rerun_articles")
        self.reruns.append((rerun, dry_run))
        return replace(self.preview, dry_run=dry_run)

    async def retry_digest(self, date: str, tag: str) -> DailyDigest:
        for number, known in enumerate(self.all_digests):
            if (known.date, known.tag) == (date, tag):
                if known.state != "failed":
                    raise Conflict(f"this digest is {known.state}")
                self.all_digests[number] = replace(known, state="pending", reason=None, next_try_at=None)
                return self.all_digests[number]
        raise NotFound(f"there is no digest of {date} for {tag}")

    async def digests(self, q: DailyQuery) -> DailyPage:
        self._fail("digests")
        start = int(q.cursor or 0)
        found = [digest for digest in self.all_digests if q.tag in (None, digest.tag) and q.state in (None, digest.state)]
        end = start + q.limit
        return DailyPage(tuple(found[start:end]), str(end) if end < len(found) else None)

    async def feeds(self) -> tuple[Feed, ...]:
        self._fail("feeds")
        return tuple(self.all_feeds.values())

    async def add_feed(self, url: str, options: dict[str, Any]) -> Feed:
        if any(known.url == url for known in self.all_feeds.values()):
            raise Conflict(f"url: {url} is there already")
        added = feed(f"feed{len(self.all_feeds)}", url=url, origin="api", state="new", title=options.get("title", ""), options=options)
        self.all_feeds[added.id] = added
        return added

    async def remove_feed(self, id: str) -> None:
        if self._feed(id).origin == "config":
            raise Conflict("the configuration names this feed; remove it there")
        del self.all_feeds[id]

    async def change_feed(self, id: str, options: dict[str, Any], paused: bool | None = None) -> Feed:
        known = self._feed(id)
        if options and known.origin == "config":
            raise Conflict("the configuration names this feed; change it there")
        self.changed.append((id, options))
        if paused is not None:
            self.all_feeds[id] = replace(known, state="paused" if paused else "ok", paused_by="person" if paused else None)
        return self.all_feeds[id]

    async def refresh_feed(self, id: str) -> Feed:
        return self._feed(id)

    async def check_feed(self, url: str) -> Probe:
        self._fail("check_feed")
        steps = (ProbeStep("address", True, f"{url}: not on the list", {"feed_id": None}), ProbeStep("fetch", False, "no\x1b[2J reply"))
        return Probe(url, self.probe_ok, steps if not self.probe_ok else steps[:1], ("https://example.org/feed",))

    async def verify_push(self, id: str, token: str, asked: Verification) -> str:
        self._subscription(id, token)
        self.verified.append(asked)
        return asked.challenge

    async def take_push(self, id: str, token: str, body: bytes, content_type: str | None, signature: str) -> None:
        self._subscription(id, token)
        self.pushed.append((body, content_type, signature))

    def _subscription(self, id: str, token: str) -> None:
        if (id, token) != ("feed0", "secret"):
            raise NotFound("there is no such subscription")

    async def webhooks(self) -> tuple[Health, ...]:
        self._fail("webhooks")
        return tuple(self.all_webhooks)

    async def dead_letters(self, id: str, limit: int) -> tuple[Delivery, ...]:
        self._webhook(id)
        return tuple(self.dead[:limit])

    async def redeliver(self, id: str, ids: tuple[str, ...] | None) -> int:
        self._webhook(id)
        self.sent_again.append((id, ids))
        return len(self.dead if ids is None else ids)

    async def test_webhook(self, id: str) -> str:
        if self._webhook(id).state != "active":
            raise Conflict("this webhook is disabled; change its settings to begin again")
        return "msg_test"

    def _webhook(self, id: str) -> Health:
        for known in self.all_webhooks:
            if known.id == id:
                return known
        raise NotFound(f"there is no webhook {id}")

    async def report(self) -> dict[str, Any]:
        self._fail("report")
        return self.the_report

    async def metrics(self) -> str:
        self._fail("metrics")
        return "# HELP frugal_up Always 1.\nfrugal_up 1\n"

    async def ready(self) -> dict[str, Any]:
        self._fail("ready")
        return self.state

    @property
    def stored(self) -> StoredAnswers:
        self._fail("stored")
        assert self.the_stored is not None, "this test has no stored answers"
        return self.the_stored

    def admin_key_sha256(self) -> str | None:
        return self.key_sha256

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.observed.append((method, route, status))

    def _feed(self, id: str) -> Feed:
        if id not in self.all_feeds:
            raise NotFound(f"there is no feed {id}")
        return self.all_feeds[id]

    def _fail(self, name: str) -> None:
        if name in self.broken:
            raise self.broken[name]

    def _bad_choice(self, ask: Ask) -> FrugalError | None:
        return next((error for end, error in self._bad_choices.items() if ask.generate.request_id.endswith(end)), None)

    async def _go_on(self) -> None:
        if self._crash:
            raise self._crash
        if self._hangs:
            self.waiting.set()
            await asyncio.Event().wait()
