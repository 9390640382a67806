"""The address of an article or feed as a published document may carry it: a URI that any reader opens, and nobody's password. Pure.

Feeds hold what browsers mend: spaces, letters of every alphabet, percent signs that escape nothing. RFC 3986 knows none of them, and feed
validators refuse them. Tests: tests/fast/test_api_addresses.py.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit, urlunsplit

SAFE = "/:@!$&'()*+,;=-._~%"  # RFC 3986's pchar and the slash; a question mark is safe behind the first one
HOST = re.compile(r"[A-Za-z0-9._~-]+")
LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def public_address(url: str) -> str | None:
    """The same place as an ASCII URI without user and password; None for what is not http(s) or names no host."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except (ValueError, UnicodeError):
        return None
    if parts.scheme not in ("http", "https") or not (host.startswith("[") or HOST.fullmatch(host)):
        return None
    place = host if port is None else f"{host}:{port}"
    return urlunsplit((parts.scheme, place, _quoted(parts.path), _quoted(parts.query, "?"), _quoted(parts.fragment, "?")))


def _quoted(text: str, also: str = "") -> str:
    return quote(LONE_PERCENT.sub("%25", text), SAFE + also, errors="replace")
