"""May this browser change something here? A pure decision on three headers; it touches nothing.

A web page that somebody has open can send requests to 127.0.0.1. Browsers name the page in `Origin` (and its relation in
`Sec-Fetch-Site`, https://www.w3.org/TR/fetch-metadata/); programs send neither and pass. Comparing Origin with Host alone would let a page
through whose host name was re-pointed at us (DNS rebinding), hence the list of our own names.
Tests: tests/fast/test_api_origin.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from serve_app.settings import IngressSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
DEFAULT_PORTS = {"http": 80, "https": 443}


def refusal(method: str, origins: Sequence[str], host: str | None, fetch_site: str | None, settings: IngressSettings) -> str | None:
    """Why this request is refused, with the remedy; `None` where it may pass. `origins` holds every Origin header that was sent."""
    if method in SAFE_METHODS:
        return None
    if not origins:
        if (fetch_site or "").lower() == "cross-site":
            return "another web site may not change anything here (Sec-Fetch-Site: cross-site); send the request from a program"
        return None
    origin = origins[0].strip()
    if len(origins) == 1 and (_same_place(origin, host, settings) or _allowed(origin, settings)):
        return None
    shown = ", ".join(origins)[:200]
    return f"the web origin {shown!r} may not change anything here; add its host to allowed_hosts or the whole origin to allowed_origins"


def _same_place(origin: str, host: str | None, settings: IngressSettings) -> bool:
    page = _split(origin)
    if page is None or host is None:
        return False
    scheme, name, _ = page
    # Host carries no scheme: its missing port is the default of the page's scheme, also behind a proxy that ends TLS.
    return page == _split(f"{scheme}://{host}") and name in {_bare(known) for known in settings.allowed_hosts}


def _allowed(origin: str, settings: IngressSettings) -> bool:
    page = _split(origin)
    return page is not None and page in [_split(known) for known in settings.allowed_origins]


def _split(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host name and port of `scheme://host[:port]`; `None` for anything else, `null` included."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme]


def _bare(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]")
