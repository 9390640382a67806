"""A feed's server on the loopback interface, a fetcher and an answerer without a network, and a clock that stands still.

Fakes with verbs: a test says what the world does, and looks at what was asked of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from serve_app.errors import FetchError, FrugalError
from serve_app.feeds.fetch import Fetched, NotModified
from serve_app.feeds.pacing import host_scope
from serve_app.messages import Answer, Finish, Opening, Outcome, Usage
from serve_app.messages_feeds import Article
from serve_app.settings_feeds import FeedEntry, FeedsSettings

LONG = "The release brings a faster scheduler, two bug fixes and a new page of documentation for people who run it at home on one machine."


class Clock:
    """Time that moves when told to. `num_reads` grows while a loop that reads it goes round."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self.num_reads = 0

    def __call__(self) -> float:
        self.num_reads += 1
        return self.now

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass
class FakeFeed:
    """An RSS feed that grows and changes; an entry's link is `links` and its guid."""

    title: str = "A feed"
    links: str = "https://feed.test/"
    items: dict[str, tuple[str, str]] = field(default_factory=dict)

    def entry(self, guid: str, title: str = "", text: str = LONG) -> FakeFeed:
        """Publish an entry, or change the one with this guid."""
        self.items[guid] = (title or f"About {guid}", text)
        return self

    def body(self) -> bytes:
        """The document, newest first."""
        items = "".join(
            f"<item><guid>{html.escape(guid)}</guid><link>{self.links}{html.escape(guid)}</link><title>{html.escape(title)}</title>"
            f"<pubDate>Mon, 01 Jan 2024 {number:02}:00:00 GMT</pubDate><description>{html.escape(text)}</description></item>"
            for number, (guid, (title, text)) in reversed(list(enumerate(self.items.items())))
        )
        return f'<?xml version="1.0"?><rss version="2.0"><channel><title>{self.title}</title>{items}</channel></rss>'.encode()


@dataclass(frozen=True)
class _Reply:
    body: bytes
    headers: Mapping[str, str]
    status: int


Handler = Callable[[web.Request], web.StreamResponse]


class FakeFeedServer:
    """A real HTTP server: `async with FakeFeedServer() as server`, then `server.serve(...)` or `server.entry(...)`."""

    def __init__(self) -> None:
        self.feed = FakeFeed()
        self.requests: list[web.Request] = []
        self._replies: dict[str, _Reply] = {}
        self._hanging: set[str] = set()
        self._let_go = asyncio.Event()
        self.arrived = asyncio.Event()

    async def __aenter__(self) -> FakeFeedServer:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._let_go.set()
        await self._runner.cleanup()

    def url(self, path: str = "/feed", host: str = "127.0.0.1") -> str:
        """The address of a path here."""
        return f"http://{host}:{self.port}{path}"

    def entry(self, guid: str, title: str = "", text: str = LONG) -> None:
        """Publish an entry at /feed, with an ETag that changes with the feed."""
        self.feed.entry(guid, title, text)

    def serve(self, path: str, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> str:
        """Answer `path` with this; gives its address."""
        self._replies[path] = _Reply(body, headers or {}, status)
        return self.url(path)

    def redirect(self, path: str, to: str, status: int = 302) -> str:
        """Answer `path` with a redirect."""
        return self.serve(path, b"", {"Location": to}, status)

    def hang(self, path: str) -> str:
        """Never answer `path`."""
        self._hanging.add(path)
        return self.url(path)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.arrived.set()
        if request.path in self._hanging:
            await self._let_go.wait()
        if request.path in self._replies:
            return await self._send(request, self._replies[request.path])
        if request.path != "/feed":
            return web.Response(status=404)
        body = self.feed.body()
        etag = f'W/"{hashlib.sha256(body).hexdigest()}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        return web.Response(body=body, headers={"ETag": etag}, content_type="application/rss+xml")

    async def _send(self, request: web.Request, reply: _Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=dict(reply.headers))
        await response.prepare(request)
        for start in range(0, len(reply.body), 16_384):
            await response.write(reply.body[start : start + 16_384])
        await response.write_eof()
        return response


class FakeFetcher:
    """Feeds by address. `publish` one, or `fail` it, or let it `hang`; `asked` has each request's address and ETag."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.gaps: dict[str, float] = {}
        self._feeds: dict[str, FakeFeed] = {}
        self._errors: dict[str, Exception] = {}
        self._hanging: set[str] = set()
        self.arrived = asyncio.Event()

    def publish(self, url: str) -> FakeFeed:
        """The feed at this address, to put entries into."""
        self._errors.pop(url, None)
        return self._feeds.setdefault(url, FakeFeed())

    def fail(self, url: str, error: Exception | None = None) -> None:
        """Let every fetch of this address fail."""
        self._errors[url] = error or FetchError("the name feed.test cannot be resolved")

    def hang(self, url: str) -> None:
        """Let every fetch of this address wait for ever."""
        self._hanging.add(url)

    def reconfigure(self, settings: FeedsSettings) -> None:
        """Nothing to take over."""

    def wait_s(self, url: str) -> float:
        """Nobody waits for a turn, but those whose host is in `gaps`."""
        return self.gaps.get(host_scope(url), 0.0)

    async def fetch(self, url: str, etag: str | None = None, last_modified: str | None = None) -> Fetched | NotModified:
        """What Fetcher does, without a network."""
        self.asked.append((url, etag))
        self.arrived.set()
        if url in self._hanging:
            await asyncio.Event().wait()
        if url in self._errors:
            raise self._errors[url]
        body = self._feeds[url].body()
        own = hashlib.sha256(body).hexdigest()
        return NotModified(etag=own) if etag == own else Fetched(url, body, "application/rss+xml", etag=own)


def answer(text: str = "A faster scheduler came out.", outcome: Outcome = "miss", compute_s: float = 2.0) -> Answer:
    """A whole answer of AnswerCache."""
    usage = Usage(prompt_tokens=50, completion_tokens=9)
    finish = Finish("stop", usage, compute_s, compute_s * 2, 0.1, 0.2, 3.0, batch_size=4, cost_usd=compute_s / 1000)
    return Answer(Opening(outcome, "key"), text, finish)


class FakeAnswerer:
    """Stands for AnswerCache. `holds` lets it block until `let_go`; `refuse` makes the next asks fail; `asked` counts per title."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.texts: list[str] = []
        self.prompts: list[str] = []
        self.attempts: list[int] = []
        self.num_live = 0
        self.max_live = 0
        self.next = answer()
        self.errors: list[BaseException] = []
        self.always: FrugalError | None = None
        self.started = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()

    def hold(self) -> None:
        """Answer nothing until `let_go`."""
        self._gate.clear()

    def let_go(self) -> None:
        """Answer what waits and what comes."""
        self._gate.set()

    async def __call__(self, article: Article, settings: FeedsSettings) -> Answer:
        self.asked.append(article.title)
        self.texts.append(article.text)
        self.prompts.append(settings.summary.template)
        self.attempts.append(article.attempts)
        self.num_live += 1
        self.max_live = max(self.max_live, self.num_live)
        self.started.set()
        try:
            await self._gate.wait()
            if self.errors:
                raise self.errors.pop(0)
            if self.always:
                raise self.always
            return self.next
        finally:
            self.num_live -= 1


def settings_for(*urls: str, **values: object) -> FeedsSettings:
    """Settings with these feeds and loopback allowed."""
    feeds = tuple(FeedEntry(url=url) for url in urls)
    return FeedsSettings.model_validate({"feeds": feeds, "allow_private_hosts": ("127.0.0.1",), "min_words": 3, **values})


async def until(happened: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Let other tasks run until this is so."""
    async with asyncio.timeout(timeout_s):
        while not happened():  # noqa: ASYNC110 (what is looked at is rows and lists, which set no event)
            await asyncio.sleep(0.001)
