"""What to say about a document that is no feed; for a web page, the addresses of its feeds. Pure.

Tests: tests/fast/test_feeds_parse.py.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

from serve_app.errors import FetchError
from serve_app.feeds.markup import Tag, tokens

FEED_TYPES = ("application/rss+xml", "application/atom+xml", "application/feed+json")
MAX_FEEDS = 4
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
        found = feeds_of(body, url)
        one_of = "use its feed" if len(found) == 1 else "use one of its feeds"
        remedy = f"{one_of} {' '.join(found)}" if found else "look for the site's feed address and use that"
        return FetchError(f"this is a web page, not a feed; {remedy}")
    return FetchError("there is no feed at this address: it is neither RSS, Atom nor JSON Feed; check the address")


def feeds_of(body: bytes, url: str) -> list[str]:
    """The feeds that the page's <link rel="alternate"> elements name, the first MAX_FEEDS of them."""
    found: dict[str, None] = {}
    for token in tokens(body[:HEAD].decode("utf-8", "replace")):
        if isinstance(token, Tag) and token.name == "link":
            given = token.attributes()
            kind = given.get("type", "").split(";")[0].strip().lower()
            if "alternate" in given.get("rel", "").lower().split() and kind in FEED_TYPES and given.get("href", "").strip():
                found[_resolved(url, given["href"].strip())] = None
    return [feed for feed in found if feed][:MAX_FEEDS]


def _resolved(base: str, link: str) -> str:
    try:
        found = urljoin(base, link)
        return found if urlsplit(found).scheme in ("http", "https") and len(found) < 2_000 else ""
    except ValueError:
        return ""
