"""One conditional GET of one feed: guarded, bounded in time and size, paced per host, redirects followed by hand. And a POST to a hub.

Knows HTTP and nothing of feeds. What goes wrong is a FetchError whose message reads well on the feeds page; `reasons.py` words it.
`sample:` is the feed bundled with this package. Tests: tests/fast/test_feeds_fetch.py, tests/corpus/test_hostile_servers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.resources
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import yarl

import serve_app
from serve_app.errors import FetchError
from serve_app.feed_url import SAMPLE_FEED, masked
from serve_app.feeds import headers, reasons
from serve_app.feeds.guard import Guard, GuardedResolver
from serve_app.feeds.inflate import ACCEPTED, PIECE, Body
from serve_app.feeds.pacing import Pacing, host_scope, scope
from serve_app.feeds.resolve import ThreadResolver
from serve_app.feeds.trace import Hop, Hops
from serve_app.settings_feeds import FeedsSettings

ACCEPT = (
    "application/atom+xml, application/rss+xml, application/feed+json, application/rdf+xml;q=0.9, "
    "application/xml;q=0.8, text/xml;q=0.8, application/json;q=0.7, */*;q=0.1"
)
ACCEPT_PAGE = "text/html, application/xhtml+xml;q=0.9, text/plain;q=0.5, */*;q=0.1"
REDIRECTS = (301, 302, 303, 307, 308)
PERMANENT = (301, 308)
BUSY = (429, 503)
HOST_GAP_S = 1.0
LARGE = 1_000_000  # bytes of a body; of those that are larger MAX_LARGE arrive at once, or 32 bombs would be half a gigabyte
MAX_LARGE = 2
OUTSIDE = Guard(redirected=True)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A new body, decoded. `url` is where it was found in the end; the validators go back unchanged with the next request.

    `moved_to`: where permanent redirects alone lead from the address that was asked for. `hub`, `topic`: see headers.hub_and_topic.
    """

    url: str
    body: bytes
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    max_age_s: float | None = None
    status: int = 200
    moved_to: str | None = None
    hub: str | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class NotModified:
    """Nothing new. Validators are those that the reply brought along, if any (RFC 9111, section 4.3.4)."""

    etag: str | None = None
    last_modified: str | None = None
    max_age_s: float | None = None
    status: int = 304
    moved_to: str | None = None


@dataclass(frozen=True, slots=True)
class _Redirect:
    to: yarl.URL
    status: int


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent at every hop."""

    conditions: Mapping[str, str]
    form: Mapping[str, str] | None = None  # POST it


@dataclass(slots=True)
class _Line:
    """A session, and who was met at its present hop."""

    session: aiohttp.ClientSession
    resolver: GuardedResolver
    hops: Hops

    def begin(self, url: yarl.URL) -> None:
        """The next hop begins."""
        self.hops.append(Hop(masked(str(url))))
        self.resolver.seen = self.hops[-1].addresses


class Fetcher:
    """Fetches feeds. `gap_s`, `sleep` and `resolver` are for tests; `tls` is a context that trusts more than the system does."""

    def __init__(
        self,
        settings: FeedsSettings,
        *,
        gap_s: float = HOST_GAP_S,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        resolver: aiohttp.abc.AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._own = ThreadResolver()
        self._inner = resolver or self._own
        self._tls = tls
        self._large = asyncio.Semaphore(MAX_LARGE)
        self._pacing = Pacing(gap_s, monotonic, sleep)
        self.reconfigure(settings)

    def reconfigure(self, settings: FeedsSettings) -> None:
        """Use these settings from the next request on."""
        self._settings = settings
        self._guard = Guard(settings.allow_private_hosts)

    def close(self) -> None:
        """Let go of what the fetches share."""
        self._own.stop()

    def wait_s(self, url: str) -> float:
        """For so long a request to this address would wait for its host's turn; infinity: nobody knows yet, one is running."""
        return max(0.0, self._pacing.free_at(host_scope(url)) - self._monotonic())

    async def fetch(
        self, url: str, etag: str | None = None, last_modified: str | None = None, *, hops: Hops | None = None
    ) -> Fetched | NotModified:
        """Get a feed if it differs from the one that these validators came with. What is met on the way is noted in `hops`.

        Raises:
            FetchError: it could not be had; the message says why, `retry_after_s` what the server asked for.
        """
        if url == SAMPLE_FEED:
            return await asyncio.to_thread(_sample, etag)
        conditions = {name: value for name, value in (("If-None-Match", etag), ("If-Modified-Since", last_modified)) if value}
        async with self._line(hops) as line:
            return await self._follow(line, _url(url), _Request(conditions))

    async def page(self, url: str, feed_url: str) -> Fetched:
        """Get what an entry of this feed links to, or the robots.txt beside it. A private host only where it is the feed's own: what
        anybody may write into a feed must not be shown from inside.

        Raises:
            FetchError: see `fetch`.
        """
        start = _url(url)
        async with self._line() as line:
            if not url_host(feed_url) or start.raw_host != url_host(feed_url):
                line.resolver.guard = OUTSIDE
            reply = await self._follow(line, start, _Request({"Accept": ACCEPT_PAGE}))
        if isinstance(reply, NotModified):
            raise FetchError(f"{start.host} answered 304 to a request without conditions; tell its owner")
        return reply

    async def post(self, url: str, form: Mapping[str, str]) -> int:
        """Send a form, as to a hub; gives the status, which is below 300.

        Raises:
            FetchError: it did not arrive, or was refused.
        """
        async with self._line() as line:
            return (await self._follow(line, _url(url), _Request({}, form))).status

    @contextlib.asynccontextmanager
    async def _line(self, hops: Hops | None = None) -> AsyncIterator[_Line]:
        # A session per fetch: nothing is kept between two checks an hour apart, no connection, no cookie, no resolved address.
        resolver = GuardedResolver(self._guard, self._inner)
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=self._headers(), auto_decompress=False
        ) as session:
            yield _Line(session, resolver, [] if hops is None else hops)

    async def _follow(self, line: _Line, start: yarl.URL, request: _Request) -> Fetched | NotModified:
        left_s, url, moved_to, is_permanent = self._settings.total_timeout_s, start, None, True
        for _hop in range(self._settings.max_redirects + 1):
            line.begin(url)
            line.resolver.met_private = line.resolver.guard.check_url(url)
            async with self._pacing.turn(url.raw_host or ""):
                started = self._monotonic()
                with reasons.readable(url, self._settings):
                    async with asyncio.timeout(left_s):
                        result = await self._hop(line, url, request)
                left_s -= self._monotonic() - started  # waiting for one's turn does not count
            if not isinstance(result, _Redirect):
                return replace(result, moved_to=moved_to)
            if not line.resolver.met_private:
                line.resolver.guard = OUTSIDE
            is_permanent = is_permanent and result.status in PERMANENT and start.user is None  # a password would be lost on the way
            url = result.to
            moved_to = str(url) if is_permanent else moved_to
        raise FetchError(f"more than {self._settings.max_redirects} redirects; put the feed's final address here")

    async def _hop(self, line: _Line, url: yarl.URL, request: _Request) -> Fetched | NotModified | _Redirect:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s)
        method = "GET" if request.form is None else "POST"
        options: dict[str, Any] = {"allow_redirects": False, "timeout": timeout, "ssl": self._tls or True, "data": request.form}
        async with line.session.request(method, url, headers=request.conditions, **options) as reply:
            line.hops[-1].answered(reply.status, reply.headers)
            if reply.status in REDIRECTS and "Location" in reply.headers:
                return _Redirect(_url(reply.headers["Location"], base=url), reply.status)
            if request.form is not None and 200 <= reply.status < 300:
                return Fetched(str(url), b"", status=reply.status)
            found = headers.validator(reply.headers.get("ETag")), headers.validator(reply.headers.get("Last-Modified"))
            max_age_s = headers.max_age_s(reply.headers, self._now())
            if reply.status == 304 and request.conditions:
                return NotModified(*found, max_age_s)
            if reply.status != 200:
                # A private host may be a bridge to many sites, of which only one is busy; a public one speaks for itself.
                held_host = None if line.resolver.met_private or reply.status not in BUSY else scope(url.raw_host or "")
                raise reasons.bad_status(reply.status, url, headers.retry_after_s(reply.headers, self._now()), held_host)
            body = await self._body(reply, line.hops[-1])
            hub, topic = headers.hub_and_topic(reply.headers.getall("Link", ()))
            # Without the user and password: the links of articles are resolved against it, and those are shown.
            where, kind = str(url.with_user(None)), reply.headers.get("Content-Type")
            return Fetched(where, body, kind, *found, max_age_s, hub=hub, topic=topic)

    async def _body(self, reply: aiohttp.ClientResponse, hop: Hop) -> bytes:
        body = Body(reply.headers.get("Content-Encoding", ""), self._settings.max_feed_bytes)
        async with contextlib.AsyncExitStack() as stack:
            is_large = False
            async for piece in reply.content.iter_chunked(PIECE):
                hop.num_received += len(piece)
                for num_bytes in body.steps(piece):
                    hop.num_bytes = num_bytes
                    if num_bytes > LARGE and not is_large:
                        await stack.enter_async_context(self._large)
                        is_large = True
            return body.finish()

    def _headers(self) -> dict[str, str]:
        contact = "".join(c for c in self._settings.contact if c.isascii() and c.isprintable())
        agent = f"FrugalServe/{serve_app.__version__}" + (f" (+{contact})" if contact else "")
        return {"User-Agent": agent, "Accept": ACCEPT, "Accept-Encoding": ACCEPTED}


def _url(text: str, base: yarl.URL | None = None) -> yarl.URL:
    try:
        url = yarl.URL(text.strip())
        return (base.join(url) if base else url).with_fragment(None)
    except ValueError:
        raise FetchError(f"{masked(text)[:200]!r} is not an address; correct it") from None


def url_host(url: str) -> str | None:
    """The host of an address; None where it has none."""
    try:
        return yarl.URL(url).raw_host
    except ValueError:
        return None


def _sample(etag: str | None) -> Fetched | NotModified:
    body = importlib.resources.files(serve_app).joinpath("sample", "feed.xml").read_bytes()
    own = f'"{hashlib.sha256(body).hexdigest()}"'
    return NotModified(etag=own) if etag == own else Fetched(SAMPLE_FEED, body, "application/rss+xml", etag=own)
