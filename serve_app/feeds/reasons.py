"""Why a fetch failed, in words for the feeds page: what happened and, where a person can do something, what.

Tests: tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import aiohttp
import yarl

from serve_app.errors import FetchError
from serve_app.settings_feeds import FeedsSettings

STATUS = {
    401: "it wants a password (401); put user:password@ into the address if you have one; it is not shown",
    403: "it refuses to serve the feed to us (403); if that stays, set `contact` so that its owner can reach you",
    404: "there is no feed at this address (404); check the address",
    410: "the feed is gone for good (410); remove it, or refresh it to look again",
    429: "it asks us to come less often (429)",
}


def bad_status(status: int, url: yarl.URL, retry_after_s: float | None, held_host: str | None = None) -> FetchError:
    """The error for a reply that brings no feed. `held_host`: see FetchError."""
    if status in STATUS:
        why = STATUS[status]
    elif status >= 500:
        why = f"its server has trouble ({status})"
    else:
        why = f"it answered with status {status} instead of a feed"
    return FetchError(f"{url.host}: {why}", retry_after_s=retry_after_s, http_status=status, held_host=held_host)


@contextlib.contextmanager
def readable(url: yarl.URL, settings: FeedsSettings) -> Iterator[None]:
    """Turn what aiohttp, the system or the clock raises into a FetchError."""
    try:
        yield
    except FetchError:
        raise
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise FetchError(_why(error, url, settings)) from error


def _why(error: Exception, url: yarl.URL, settings: FeedsSettings) -> str:
    host, where = url.host, f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection to {where} within {settings.connect_timeout_s:g} s"
    if isinstance(error, TimeoutError):
        return f"{host} did not send the feed within {settings.total_timeout_s:g} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {host} cannot be resolved; check the address and this machine's internet connection"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{host} has no valid certificate ({_certificate(error)})"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"no secure connection to {where} could be made; is it an http address?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _connect(error.os_error, where)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.http_exceptions.HttpProcessingError):
        return f"{host} answered with something that is not HTTP, or with headers over the limit"
    if isinstance(error, aiohttp.ClientError | ConnectionError):
        return f"{host} closed the connection before the end of its reply"
    return f"{host}: {type(error).__name__} while fetching"


def _connect(error: OSError, where: str) -> str:
    if error.errno == errno.ECONNREFUSED:
        return f"{where} refuses connections; is the server running?"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"{where} cannot be reached from here; check this machine's internet connection"
    return f"no connection to {where}" + (f" ({os.strerror(error.errno).lower()})" if error.errno and error.errno > 0 else "")


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    return str(getattr(error.certificate_error, "verify_message", "") or type(error.certificate_error).__name__)
