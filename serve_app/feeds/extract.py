"""The article on a web page, by trafilatura (extra `fulltext`), imported with the first page. Runs in the parser's process.

Tests: tests/process/test_feeds_extract.py.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping
from typing import Any

from serve_app.errors import FetchError
from serve_app.feeds.parse import MAX_TEXT
from serve_app.feeds.text import tidy

MISSING = "reading pages needs the extra fulltext: pip install 'frugal-serve[fulltext]'"
MODULES = ("trafilatura", "lxml_html_clean")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)


def missing() -> str | None:
    """Why no page can be read here, or None."""
    return None if all(importlib.util.find_spec(name) for name in MODULES) else MISSING


def missing_note(options: Mapping[str, Any]) -> str | None:
    """What to tell of a feed with these options that wants pages where none can be read."""
    return missing() if options.get("full_text") else None


def extract(body: bytes, url: str, content_type: str | None) -> str:
    """The main text of a page without comments, tables and links, one line per paragraph; empty where none is found.

    Raises:
        FetchError: the extra is not installed.
    """
    if missing():
        raise FetchError(MISSING)
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it warns of each page without an article
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
