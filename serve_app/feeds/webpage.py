"""What to say about a document that is no feed; for a web page, the address of its feed. Pure.

Tests: tests/fast/test_feeds_parse.py.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

from serve_app.errors import FetchError
from serve_app.feeds.markup import Tag, tokens

FEED_TYPES = ("application/rss+xml", "application/atom+xml", "application/feed+json")
HEAD = 200_000  # bytes in which <link> elements are looked for
PAGE = re.compile(rb"<!doctype html|<html[\s>]|<head[\s>]|<body[\s>]", re.IGNORECASE)


def not_a_feed(body: bytes, url: str) -> FetchError:
    """The error for a body in which there is no feed."""
    head = body[:HEAD]
    if not body.strip():
        return FetchError("the reply is empty; it will be tried again")
    if re.search(rb"<opml[\s>]", body[:2_000], re.IGNORECASE):
        return FetchError("this is a list of feeds (OPML), not a feed; add the feeds that it lists")
    if PAGE.search(head):
        feed = _feed_of(head.decode("utf-8", "replace"), url)
        remedy = f"use its feed {feed}" if feed else "look for the site's feed address and use that"
        return FetchError(f"this is a web page, not a feed; {remedy}")
    return FetchError("there is no feed at this address: it is neither RSS, Atom nor JSON Feed; check the address")


def _feed_of(page: str, url: str) -> str:
    """The first feed that the page's <link rel="alternate"> elements name, or nothing."""
    for token in tokens(page):
        if isinstance(token, Tag) and token.name == "link":
            given = token.attributes()
            kind = given.get("type", "").split(";")[0].strip().lower()
            if "alternate" in given.get("rel", "").lower().split() and kind in FEED_TYPES and given.get("href", "").strip():
                return _resolved(url, given["href"].strip())
    return ""


def _resolved(base: str, link: str) -> str:
    try:
        found = urljoin(base, link)
        return found if urlsplit(found).scheme in ("http", "https") and len(found) < 2_000 else ""
    except ValueError:
        return ""
