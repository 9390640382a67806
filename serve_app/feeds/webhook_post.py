"""One POST of one webhook message: guarded as the fetcher is, bounded in time, no redirect followed, no answer read.

Private addresses only where `allow_private_hosts` names them; what was checked is what is connected to. Tests:
tests/fast/test_feeds_webhooks.py.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping

import aiohttp
import yarl

import serve_app
from serve_app.errors import FetchError
from serve_app.feeds import headers as values
from serve_app.feeds import reasons
from serve_app.feeds.guard import Guard, GuardedResolver
from serve_app.feeds.resolve import ThreadResolver
from serve_app.feeds.webhooks import Posted
from serve_app.settings_feeds import FeedsSettings

TIMEOUT_S = 15.0  # Standard Webhooks recommends 15 to 30 s


class Poster:
    """Posts. `resolver`, `timeout_s` and `now` are for tests; `tls` is a context that trusts more than the system does."""

    def __init__(
        self,
        settings: FeedsSettings,
        *,
        resolver: aiohttp.abc.AbstractResolver | None = None,
        timeout_s: float = TIMEOUT_S,
        now: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._own = ThreadResolver()
        self._inner = resolver or self._own
        self._timeout_s = timeout_s
        self._now = now
        self._tls = tls
        self.reconfigure(settings)

    def reconfigure(self, settings: FeedsSettings) -> None:
        """Use these settings from the next request on."""
        self._settings = settings
        self._guard = Guard(settings.allow_private_hosts)

    def close(self) -> None:
        """Let go of the resolver's threads."""
        self._own.stop()

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        """Send a message.

        Raises:
            FetchError: no answer came; the message says why and never holds more of the address than its host.
        """
        where = yarl.URL(url)
        self._guard.check_url(where)
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(self._guard, self._inner), use_dns_cache=False, force_close=True)
        sent = {"User-Agent": f"FrugalServe/{serve_app.__version__}", **headers}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session:
            with reasons.readable(where, self._settings):
                try:
                    async with (
                        asyncio.timeout(self._timeout_s),
                        session.post(where, data=body, headers=sent, allow_redirects=False, ssl=self._tls or True) as reply,
                    ):
                        return Posted(reply.status, values.retry_after_s(reply.headers, self._now()))
                except aiohttp.ConnectionTimeoutError:
                    raise
                except TimeoutError:
                    raise FetchError(f"{where.host} did not answer within {self._timeout_s:g} s") from None
