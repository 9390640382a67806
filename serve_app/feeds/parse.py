"""Bytes in, entries out: RSS, RDF and Atom through feedparser, JSON Feed by hand. Pure.

Always bytes in a BytesIO: feedparser opens a short body as a file name and fetches a string that looks like an address. Its sanitiser is
off because no markup leaves this file. Every field is capped. Tests: tests/fast/test_feeds_parse.py, tests/corpus/test_corpus_parse.py.
"""

from __future__ import annotations

import calendar
import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from typing import Any
from urllib.parse import urljoin, urlsplit

import feedparser

from serve_app.errors import FetchError
from serve_app.feeds import hints, jsonfeed, prolog, webpage
from serve_app.feeds.text import one_line, text_hash, tidy, visible_text

VERSIONS = {"rss": "RSS", "rss20": "RSS 2.0", "rss10": "RSS 1.0 (RDF)", "rss090": "RSS 0.90", "atom10": "Atom 1.0", "atom03": "Atom 0.3"}
VERSIONS |= {f"rss{number}": f"RSS 0.{number[1:3]}" for number in ("091u", "091n", "092", "093", "094")}
MAX_TITLE = 1_000
MAX_GUID = 2_000  # bytes: an index of PostgreSQL holds at most 2,704 per row
MAX_LINK = 4_000
MAX_TEXT = 200_000
MAX_TAGS, MAX_TAG = 10, 60
MAX_ENTRIES = 5_000  # the first ones, which are the newest in nearly every feed


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: plain text throughout, `link` http(s) or empty, `published_at` in Unix seconds where the feed gives a date,
    `tags` its categories."""

    guid: str
    link: str
    title: str
    author: str
    published_at: float | None
    text: str
    text_hash: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedFeed:
    """A feed in its own order; `ttl_s` is how long it asks to be left alone, `skips` the times at which it says that nothing comes, as
    hints.Skips writes them; `num_left_out` entries beyond MAX_ENTRIES are not in it. `hub` and `topic`: see hints.hub_and_topic. `verdict`:
    what was recognised, in words for a person; nothing is decided by it."""

    title: str
    ttl_s: float | None
    entries: tuple[Entry, ...]
    num_left_out: int = 0
    skips: str | None = None
    hub: str | None = None
    topic: str | None = None
    verdict: str = field(default="", compare=False)


def parse(body: bytes, url: str, content_type: str | None) -> ParsedFeed:
    """Read a feed that was found at `url`.

    Raises:
        FetchError: it is not a feed; the message says what it is and names the page's feed where it has one.
    """
    charset = prolog.declared_charset(content_type)
    if jsonfeed.looks_like(body):
        title, items, *links = jsonfeed.read(body)
        hub, topic = (_link(link, url) or None for link in links)
        return replace(_parsed(title, None, items, len(items), url), hub=hub, topic=topic, verdict="JSON Feed in utf-8")
    cleaned, charset = prolog.clean(body, charset)
    kind = (content_type or "application/xml").split(";")[0].strip() or "application/xml"
    # Not told where it was found: feedparser would resolve guids against that, and a moved feed would come back as all new entries.
    read = _feedparser(cleaned, {"content-type": f"{kind}; charset={charset}" if charset else kind})
    if not read.get("version") and not read.entries:
        raise webpage.not_a_feed(body, url)
    title, _plain = _detail(read.feed, "title")
    found = _parsed(title, hints.asked_wait_s(read.feed), map(_from_feedparser, read.entries), len(read.entries), url)
    hub, topic = (_link(link or "", url) or None for link in hints.hub_and_topic(read.feed.get("links") or ()))
    return replace(found, skips=hints.skips(cleaned).write(), hub=hub, topic=topic, verdict=_verdict(read))


def _verdict(read: Any) -> str:
    version, ill_formed = str(read.get("version") or "unnamed format"), ", ill-formed" if read.get("bozo") else ""
    return f"{VERSIONS.get(version, version)} in {read.get('encoding') or 'an unknown encoding'}{ill_formed}"


def _parsed(title: str, ttl_s: float | None, items: Iterable[jsonfeed.Item], num_items: int, url: str) -> ParsedFeed:
    entries = _unique(_entry(item, url) for item in islice(items, MAX_ENTRIES))
    return ParsedFeed(_title(title), ttl_s, entries, max(0, num_items - MAX_ENTRIES))


def _feedparser(body: bytes, response_headers: dict[str, str]) -> Any:
    try:
        return feedparser.parse(io.BytesIO(body), response_headers=response_headers, sanitize_html=False, resolve_relative_uris=False)
    except Exception as error:  # it has raised AssertionError, ValueError and RecursionError on odd documents
        raise FetchError(f"the feed cannot be read ({type(error).__name__} in the parser); tell its owner") from error


def _from_feedparser(entry: Mapping[str, Any]) -> jsonfeed.Item:
    title, plain_title = _detail(entry, "title")
    bodies = [(str(part.get("value") or ""), part.get("type") == "text/plain") for part in entry.get("content") or ()]
    return jsonfeed.Item(
        guid=str(entry.get("id") or ""),
        link=str(entry.get("link") or ""),
        title=title,
        plain_title=plain_title,
        author=str(entry.get("author") or ""),
        published_at=_timestamp(entry.get("published_parsed") or _updated(entry)),
        tags=tuple(str(tag.get("label") or tag.get("term") or "") for tag in entry.get("tags") or ()),
        bodies=(*bodies, _detail(entry, "summary")),
    )


def _updated(entry: Mapping[str, Any]) -> Any:
    # feedparser's own `get` would answer with the date of publication, and warn.
    return entry["updated_parsed"] if "updated_parsed" in entry else None  # noqa: SIM401


def _detail(where: Mapping[str, Any], name: str) -> tuple[str, bool]:
    """A text construct and whether it is plain text; anything else is markup."""
    return str(where.get(name) or ""), (where.get(f"{name}_detail") or {}).get("type") == "text/plain"


def _entry(item: jsonfeed.Item, url: str) -> Entry:
    title = one_line(item.title if item.plain_title else visible_text(item.title))[:MAX_TITLE]
    text = next(filter(None, (_text(*body) for body in item.bodies)), "")
    link = _link(item.link, url)
    hashed = text_hash(title, text)
    guid = _guid(one_line(item.guid) or link or hashed)
    return Entry(guid, link, title, one_line(visible_text(item.author))[:MAX_TITLE], item.published_at, text, hashed, _tags(item.tags))


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    found = (one_line(visible_text(tag))[:MAX_TAG] for tag in islice(tags, 4 * MAX_TAGS))
    return tuple(dict.fromkeys(filter(None, found)))[:MAX_TAGS]


def _text(value: str, plain: bool) -> str:
    return (tidy(value[: 5 * MAX_TEXT]) if plain else visible_text(value))[:MAX_TEXT]


def _unique(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries that share a guid get guid|link; those that share that too are told apart by their text; a true double is dropped."""
    found = _tell_apart(list(entries), lambda entry: entry.link)
    found = _tell_apart(found, lambda entry: entry.text_hash)
    first: dict[str, Entry] = {}
    for entry in found:
        first.setdefault(entry.guid, entry)
    return tuple(first.values())


def _tell_apart(entries: list[Entry], by: Any) -> list[Entry]:
    count = Counter(entry.guid for entry in entries)
    return [replace(entry, guid=_guid(f"{entry.guid}|{by(entry)}")) if count[entry.guid] > 1 else entry for entry in entries]


def _guid(text: str) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= MAX_GUID:
        return text
    return f"{encoded[: MAX_GUID - 65].decode('utf-8', 'ignore')}#{sha256(encoded).hexdigest()}"


def _link(text: str, base: str) -> str:
    try:
        link = urljoin(base, one_line(text)) if text.strip() else ""
        usable = urlsplit(link).scheme in ("http", "https") and urlsplit(link).hostname and len(link) <= MAX_LINK
    except ValueError:
        return ""
    return link if usable else ""


def _title(markup: str) -> str:
    return one_line(visible_text(markup))[:MAX_TITLE]


def _timestamp(value: time.struct_time | None) -> float | None:
    try:
        return None if value is None else float(calendar.timegm(value))
    except (ValueError, OverflowError, TypeError):
        return None
