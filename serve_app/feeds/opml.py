"""OPML both ways: the feeds that a file of another reader lists, and ours as such a file (http://opml.org/spec2.opml). Pure.

Read with markup.py and not with an XML parser: exports are often ill-formed, with a bare & in an address, and what expands no entity can be
given no entity bomb. An outline with an address is an entry, good or refused with a reason; one without is a category. Our own options
travel as attributes of NAMESPACE, each a JSON value, so that an import restores what an export wrote.
Tests: tests/fast/test_feeds_opml.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from serve_app.errors import BadRequest, ConfigError, FetchError
from serve_app.feed_url import SAMPLE_FEED, check_feed_url, masked
from serve_app.feeds import prolog
from serve_app.feeds.markup import Tag, tokens
from serve_app.feeds.text import one_line
from serve_app.messages_feeds import Feed
from serve_app.settings_feeds import FeedOptions

NAMESPACE = "urn:frugal-serve:feed"
MAX_OUTLINES = 10_000
MAX_OUTLINE = 200_000  # characters of one, which long options may need
MAX_TITLE = 300  # of FeedOptions.title
MAX_CATEGORY = 300
FEED_TYPES = ("rss", "atom", "feed", "link")
FEED_SCHEME = re.compile(r"^feed:(?://)?(?=https?:)|^feed:(?=//)", re.IGNORECASE)  # what some readers write for "subscribe to this"
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # https://www.w3.org/TR/xml/#charsets
NO_PASSWORD = "its user and password were left out of this file; add it by its whole address"


@dataclass(frozen=True, slots=True)
class Outline:
    """One feed of a file. `options` are the JSON of FeedOptions; `category` the names around it, joined by slashes; `error` says why it
    cannot be added."""

    url: str
    title: str = ""
    category: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def read(body: bytes, content_type: str | None = None) -> tuple[Outline, ...]:
    """Every feed that a file lists, in its order.

    Raises:
        BadRequest: it is no OPML, or lists too many.
    """
    markup = _decoded(body, content_type)
    found: list[Outline] = []
    is_opml, prefix = False, ""  # of our own attributes
    names: list[str] = []  # of the outlines that are open
    for tag in (token for token in tokens(markup) if isinstance(token, Tag)):
        if tag.name == "opml" and not tag.closes:
            declared = (name for name, value in tag.attributes().items() if value == NAMESPACE)
            is_opml, prefix = True, next(declared, "").replace("xmlns:", "") + ":"
        elif tag.name != "outline" or not is_opml:
            continue
        elif tag.closes:
            names = names[:-1]
        else:
            given = tag.attributes(MAX_OUTLINE)
            if (outline := _outline(tag, given, "/".join(filter(None, names))[:MAX_CATEGORY], prefix)) is not None:
                found.append(outline)
            if not tag.empty:
                names.append(_name(given))
        if len(found) > MAX_OUTLINES:
            raise BadRequest(f"the file lists more than {MAX_OUTLINES} feeds; send it in parts")
    if not is_opml:
        raise BadRequest("the body is no OPML: it has no <opml> element; send what a feed reader exports")
    return tuple(found)


def write(feeds: Iterable[Feed], now: float, *, with_passwords: bool = False) -> tuple[bytes, int]:
    """A file that lists these feeds, and how many of them it cannot carry: bundled ones, and without `with_passwords` those whose address
    holds a user and a password, which stay in it without them and marked so."""
    lines, num_left_out = [], 0
    for feed in feeds:
        if feed.url == SAMPLE_FEED:
            num_left_out += 1
            continue
        has_password = masked(feed.url) != feed.url
        num_left_out += has_password and not with_passwords
        lines.append(f"    {_element(feed, hides_password=has_password and not with_passwords)}")
    title = f"Feeds of Frugal Serve{f' ({num_left_out} cannot be restored from this file)' if num_left_out else ''}"
    head = f"<title>{escape(title)}</title><dateCreated>{formatdate(now, usegmt=True)}</dateCreated>"
    opml = [f'<opml version="2.0" xmlns:frugal="{NAMESPACE}">', f"  <head>{head}</head>", "  <body>", *lines, "  </body>", "</opml>"]
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', *opml, ""]).encode(), num_left_out


def _element(feed: Feed, *, hides_password: bool) -> str:
    name = feed.title or masked(feed.url)
    given = {"type": "rss", "text": name, "title": name, "xmlUrl": masked(feed.url, "") if hides_password else feed.url}
    given |= {"frugal:lacks": "password"} if hides_password else {}
    given |= {f"frugal:{option}": json.dumps(value, ensure_ascii=False) for option, value in sorted(feed.options.items())}
    attributes = (f"{key}={quoteattr(NO_XML.sub(' ', value))}" for key, value in given.items())
    return f"<outline {' '.join(attributes)}/>"


def _decoded(body: bytes, content_type: str | None) -> str:
    try:
        cleaned, charset = prolog.clean(body, prolog.declared_charset(content_type))
    except FetchError as error:
        raise BadRequest(f"{error.message.partition(';')[0].replace('the feed', 'the file')}; send it in UTF-8") from None
    declared = prolog.DECLARED.search(cleaned[:1_000])
    for encoding in filter(None, (charset, declared.group(1).decode() if declared else None, "utf-8")):
        try:
            return cleaned.decode(encoding)
        except (LookupError, ValueError):
            continue
    return cleaned.decode("cp1252", "replace")  # what a file that lies about UTF-8 nearly always is


def _outline(tag: Tag, given: Mapping[str, str], category: str, prefix: str) -> Outline | None:
    """The feed of an outline; None where it is a category or a note."""
    url, title = FEED_SCHEME.sub(_scheme, given.get("xmlurl", "").strip()), _name(given)
    if not url:
        if given.get("type", "").strip().lower() in FEED_TYPES:
            return Outline("", title, category, error="names no xmlUrl, so there is nothing to follow")
        return None
    try:
        check_feed_url(url)
        if len(tag.source) > MAX_OUTLINE:
            raise ValueError(f"has more than {MAX_OUTLINE} characters; shorten its options")
        own = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        if own.get("lacks") == "password":
            raise ValueError(NO_PASSWORD)
        return Outline(url, title, category, _their_options(url, title) if prefix == ":" else _own_options(own))
    except ValueError as error:
        return Outline(url, title, category, error=str(error))


def _own_options(given: Mapping[str, str]) -> dict[str, Any]:
    try:
        return FeedOptions.load({name: json.loads(value) for name, value in given.items()}, "options").own()
    except (ConfigError, RecursionError) as error:
        raise ValueError(str(error)) from None
    except ValueError:
        raise ValueError("one of its options is no JSON value; write it as the export does") from None


def _their_options(url: str, title: str) -> dict[str, Any]:
    """Another reader's title is the name that somebody knows the feed by, unless it is only the address."""
    return {"title": title[:MAX_TITLE]} if title and title != url else {}


def _name(given: Mapping[str, str]) -> str:
    return one_line(given.get("title", "").strip() or given.get("text", ""))[:MAX_CATEGORY]


def _scheme(found: re.Match[str]) -> str:
    return "http:" if found.string.startswith("//", found.end()) else ""


def repeated(outlines: Iterable[Outline]) -> Iterator[tuple[Outline, bool]]:
    """Each with whether its address came before in the same file."""
    seen: set[str] = set()
    for outline in outlines:
        yield outline, outline.url in seen
        seen.add(outline.url)
