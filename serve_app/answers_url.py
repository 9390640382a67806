"""Pure: which server of stored answers an address names, and how it may be shown. A password never leaves this file in words.

Tests: tests/fast/test_answers_url.py.
"""

from __future__ import annotations

import importlib.util
import re
from urllib.parse import SplitResult, urlsplit

SCHEMES = ("valkey", "redis", "valkeys", "rediss")  # the last two over TLS
FORMS = "valkey://[<user>:<password>@]<host>:<port>/<database number> or redis://..., valkeys:// and rediss:// over TLS"
CLIENT_REMEDY = "pip install 'frugal-serve[valkey]'"


def normal_answers_url(url: str) -> str:
    """The address as the client takes it.

    Raises:
        ValueError: it names no server that the answers can be kept on, with the remedy and without the password.
    """
    scheme = re.match(r"[A-Za-z0-9+._-]{1,40}(?=://)", url)
    if scheme is None or scheme[0] not in SCHEMES:
        shown = f", not {scheme[0]}://..." if scheme else ""
        raise ValueError(f"must be {FORMS}{shown}; remove it to keep the answers in the database")
    if importlib.util.find_spec("valkey") is None:
        raise ValueError(f"Valkey and Redis need the client valkey, which is not installed; {CLIENT_REMEDY}")
    parts, _port = _parts(url)
    if parts is None or not parts.hostname:
        raise ValueError(f"is not an address; write {FORMS}, special characters as %40")
    if not re.fullmatch(r"/?|/[0-9]{1,4}", parts.path):
        raise ValueError("must end in the number of a database, such as /0")
    if parts.fragment or not re.fullmatch(r"(ssl_ca_certs=[^&]+)?", parts.query):
        raise ValueError("takes no options but ?ssl_ca_certs=<file> behind the number of the database; remove the others")
    return url


def shown_url(url: str) -> str:
    """Who and where, for people."""
    parts, port = _parts(url)
    if parts is None:
        return "answers"
    user = f"{parts.username}@" if parts.username else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{user}{host}{f':{port}' if port else ''}{parts.path}"


def _parts(url: str) -> tuple[SplitResult | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:  # whose message may show the address
        return None, None
