"""One conditional GET of one feed: guarded, bounded in time and size, paced per host, redirects followed by hand.

Knows HTTP and nothing of feeds. What goes wrong is a FetchError whose message reads well on the feeds page; `reasons.py` words it.
`sample:` is the feed bundled with this package. Tests: tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import yarl
from multidict import CIMultiDictProxy

import serve_app
from serve_app.errors import FetchError
from serve_app.feed_url import SAMPLE_FEED, masked
from serve_app.feeds import headers, reasons
from serve_app.feeds.guard import Guard, GuardedResolver
from serve_app.feeds.inflate import ACCEPTED, PIECE, Body
from serve_app.feeds.pacing import Pacing
from serve_app.settings import FeedsSettings

ACCEPT = (
    "application/atom+xml, application/rss+xml, application/feed+json, application/rdf+xml;q=0.9, "
    "application/xml;q=0.8, text/xml;q=0.8, application/json;q=0.7, */*;q=0.1"
)
REDIRECTS = (301, 302, 303, 307, 308)
HOST_GAP_S = 1.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A new body, decoded. `url` is where it was found in the end; the validators go back unchanged with the next request."""

    url: str
    body: bytes
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    max_age_s: float | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class NotModified:
    """Nothing new. Validators are those that the reply brought along, if any (RFC 9111, section 4.3.4)."""

    etag: str | None = None
    last_modified: str | None = None
    max_age_s: float | None = None
    status: int = 304


class Fetcher:
    """Fetches feeds. `gap_s` and `sleep` are for tests; `tls` is a context that trusts more than the system does."""

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
        self._inner = resolver
        self._tls = tls
        self._pacing = Pacing(gap_s, monotonic, sleep)
        self.reconfigure(settings)

    def reconfigure(self, settings: FeedsSettings) -> None:
        """Use these settings from the next request on."""
        self._settings = settings
        self._guard = Guard(settings.allow_private_hosts)

    async def fetch(self, url: str, etag: str | None = None, last_modified: str | None = None) -> Fetched | NotModified:
        """Get a feed if it differs from the one that these validators came with.

        Raises:
            FetchError: it could not be had; the message says why, `retry_after_s` what the server asked for.
        """
        if url == SAMPLE_FEED:
            return await asyncio.to_thread(_sample, etag)
        conditions = {name: value for name, value in (("If-None-Match", etag), ("If-Modified-Since", last_modified)) if value}
        # A session per fetch: nothing is kept between two checks an hour apart, no connection, no cookie, no resolved address.
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(self._guard, self._inner), use_dns_cache=False, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=self._headers(), auto_decompress=False
        ) as session:
            return await self._follow(session, _url(url), conditions)

    async def _follow(self, session: aiohttp.ClientSession, url: yarl.URL, conditions: dict[str, str]) -> Fetched | NotModified:
        left_s = self._settings.total_timeout_s
        for _hop in range(self._settings.max_redirects + 1):
            self._guard.check_url(url)
            async with self._pacing.turn(url.raw_host or ""):
                started = time.monotonic()
                with reasons.readable(url, self._settings):
                    async with asyncio.timeout(left_s):
                        result = await self._hop(session, url, conditions)
                left_s -= time.monotonic() - started  # waiting for one's turn does not count
            if not isinstance(result, yarl.URL):
                return result
            url = result
        raise FetchError(f"more than {self._settings.max_redirects} redirects; put the feed's final address here")

    async def _hop(self, session: aiohttp.ClientSession, url: yarl.URL, conditions: dict[str, str]) -> Fetched | NotModified | yarl.URL:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s)
        async with session.get(url, headers=conditions, allow_redirects=False, timeout=timeout, ssl=self._tls or True) as reply:
            if reply.status in REDIRECTS and "Location" in reply.headers:
                return _url(reply.headers["Location"], base=url)
            if reply.status == 304 and conditions:
                return NotModified(*_hints(reply.headers))
            if reply.status != 200:
                raise reasons.bad_status(reply.status, url, headers.retry_after_s(reply.headers, self._now()))
            body = Body(reply.headers.get("Content-Encoding", ""), self._settings.max_feed_bytes)
            async for piece in reply.content.iter_chunked(PIECE):
                body.feed(piece)
            # Without the user and password: the links of articles are resolved against it, and those are shown.
            return Fetched(str(url.with_user(None)), body.finish(), reply.headers.get("Content-Type"), *_hints(reply.headers))

    def _headers(self) -> dict[str, str]:
        contact = "".join(c for c in self._settings.contact if c.isascii() and c.isprintable())
        agent = f"FrugalServe/{serve_app.__version__}" + (f" (+{contact})" if contact else "")
        return {"User-Agent": agent, "Accept": ACCEPT, "Accept-Encoding": ACCEPTED}


def _hints(reply: CIMultiDictProxy[str]) -> tuple[str | None, str | None, float | None]:
    return headers.validator(reply.get("ETag")), headers.validator(reply.get("Last-Modified")), headers.max_age_s(reply)


def _url(text: str, base: yarl.URL | None = None) -> yarl.URL:
    try:
        url = yarl.URL(text.strip())
        return (base.join(url) if base else url).with_fragment(None)
    except ValueError:
        raise FetchError(f"{masked(text)[:200]!r} is not an address; correct it") from None


def _sample(etag: str | None) -> Fetched | NotModified:
    body = importlib.resources.files(serve_app).joinpath("sample", "feed.xml").read_bytes()
    own = f'"{hashlib.sha256(body).hexdigest()}"'
    return NotModified(etag=own) if etag == own else Fetched(SAMPLE_FEED, body, "application/rss+xml", etag=own)
