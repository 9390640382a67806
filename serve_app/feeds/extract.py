"""The article on a web page, by trafilatura (extra `fulltext`), imported with the first page. Runs in the parser's process.

Tests: tests/fast/test_feeds_extract.py.
"""

from __future__ import annotations

import importlib.util
import re

from serve_app.errors import FetchError
from serve_app.feeds.parse import MAX_TEXT
from serve_app.feeds.text import tidy

MISSING = "reading pages needs the extra fulltext: pip install 'frugal-serve[fulltext]'"
MODULE = "trafilatura"
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)


def missing() -> str | None:
    """Why no page can be read here, or None."""
    return None if importlib.util.find_spec(MODULE) else MISSING


def extract(body: bytes, url: str, content_type: str | None) -> str:
    """The main text of a page without comments, tables and links, one line per paragraph; empty where none is found.

    Raises:
        FetchError: the extra is not installed.
    """
    try:
        import trafilatura
    except ImportError:
        raise FetchError(MISSING) from None
    text = trafilatura.extract(
        _decoded(body, content_type), url=url, include_comments=False, include_tables=False, output_format="txt", with_metadata=False
    )
    return tidy(text or "")[:MAX_TEXT]


def _decoded(body: bytes, content_type: str | None) -> bytes | str:
    """As the server's charset says; the page's own declaration and its bytes are read by trafilatura."""
    named = CHARSET.search(content_type or "")
    try:
        return body.decode(named[1]) if named else body
    except (LookupError, UnicodeDecodeError):
        return body
