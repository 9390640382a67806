"""Summarised articles as RSS 2.0, Atom 1.0 and JSON Feed 1.1. Pure: articles in, bytes out.

Ids are UUIDs made from ours: they stay when a summary is written again, when the server gets another address and in every filter. The
newest summary's time is the document's own, so the same articles give the same bytes.

Sources: https://www.rssboard.org/rss-specification, https://www.rfc-editor.org/rfc/rfc4287, https://www.jsonfeed.org/version/1.1/, and what
https://validator.w3.org/feed/ asks beyond them. Tests: tests/fast/test_syndicate.py.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import format_datetime
from html import escape
from typing import Any
from xml.etree import ElementTree as ET

from serve_app.api.addresses import public_address
from serve_app.feed_url import masked
from serve_app.messages_feeds import Article, Feed

NAMESPACE = uuid.UUID("5e0f6a3c-53cf-5d0e-9d34-0e6d3a3d1c55")  # of all ids here; a change makes every article new to every reader
ATOM, DC = "http://www.w3.org/2005/Atom", "http://purl.org/dc/elements/1.1/"
CONTENT = "http://purl.org/rss/1.0/modules/content/"
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # https://www.w3.org/TR/xml/#charsets
AUTHOR = "Frugal Serve"
NOTE = "Summaries are written by a language model and may be wrong; the linked article is the source."
RSS, ATOM_TYPE, JSON_TYPE = "application/rss+xml", "application/atom+xml", "application/feed+json"

ET.register_namespace("atom", ATOM)
ET.register_namespace("dc", DC)
ET.register_namespace("content", CONTENT)


@dataclass(frozen=True, slots=True)
class Channel:
    """What is published: its title, the page that shows the same, its own address, and what tells it from other filters."""

    title: str
    home: str
    own: str
    filters: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """The same under any address of this server."""
        return _urn("channel", json.dumps(sorted(self.filters)))


def updated_at(articles: Sequence[Article]) -> float:
    """Unix time of the newest summary; 0 without one."""
    return max((article.summary.created_at for article in articles if article.summary), default=0.0)


def rss(channel: Channel, articles: Sequence[Article], feeds: Mapping[str, Feed]) -> bytes:
    """RSS 2.0; authors as dc:creator, because RSS wants an address of e-mail for its own. Where there is a headline, it is the description
    and the summary is content:encoded; otherwise the summary is the description."""
    root = ET.Element("rss", version="2.0")
    top = ET.SubElement(root, "channel")
    for name, text in (("title", channel.title), ("link", channel.home), ("description", NOTE)):
        _text(top, name, text)
    ET.SubElement(top, f"{{{ATOM}}}link", rel="self", type=RSS, href=channel.own)
    if articles:
        _text(top, "lastBuildDate", _rfc822(updated_at(articles)))
    _text(top, "generator", AUTHOR)
    for article in articles:
        item = ET.SubElement(top, "item")
        _text(item, "title", _title(article))
        if link := public_address(article.link):
            _text(item, "link", link)
        _text(item, "guid", _urn("article", article.id), isPermaLink="false")
        _text(item, "pubDate", _rfc822(_published(article)))
        if author := article.author.strip():
            _text(item, f"{{{DC}}}creator", author)
        for tag in _tags(article):
            _text(item, "category", tag)
        if line := _line(article):
            _text(item, "description", _html(line))
            _text(item, f"{{{CONTENT}}}encoded", _html(_summary(article)))
        else:
            _text(item, "description", _html(_summary(article)))
        feed = feeds.get(article.feed_id)
        if feed is not None and (address := _own_address(feed)):
            _text(item, "source", feed.title.strip() or address, url=address)
    return _document(root)


def atom(channel: Channel, articles: Sequence[Article], feeds: Mapping[str, Feed]) -> bytes:
    """Atom 1.0; `updated` of an entry is the time of its summary."""
    root = ET.Element("feed", xmlns=ATOM)  # not as a prefix, which some readers do not know
    for name, text in (("id", channel.id), ("title", channel.title), ("subtitle", NOTE), ("updated", _rfc3339(updated_at(articles)))):
        _text(root, name, text)
    ET.SubElement(root, "link", rel="self", type=ATOM_TYPE, href=channel.own)
    ET.SubElement(root, "link", rel="alternate", type="text/html", href=channel.home)
    _text(ET.SubElement(root, "author"), "name", AUTHOR)
    _text(root, "generator", AUTHOR)
    for article in articles:
        entry = ET.SubElement(root, "entry")
        _text(entry, "id", _urn("article", article.id))
        _text(entry, "title", _title(article))
        if link := public_address(article.link):
            ET.SubElement(entry, "link", rel="alternate", href=link)
        _text(entry, "published", _rfc3339(_published(article)))
        _text(entry, "updated", _rfc3339(updated_at([article])))
        if author := article.author.strip():
            _text(ET.SubElement(entry, "author"), "name", author)
        for tag in _tags(article):
            ET.SubElement(entry, "category", term=_clean(tag))
        if line := _line(article):
            _text(entry, "summary", line)
        _text(entry, "content", _html(_summary(article)), type="html")
        if feed := feeds.get(article.feed_id):
            source = ET.SubElement(entry, "source")
            for name, text in (
                ("id", _urn("feed", feed.id)),
                ("title", feed.title.strip() or feed.id),
                ("updated", _rfc3339(article.updated_at)),
            ):
                _text(source, name, text)
            if address := _own_address(feed):
                ET.SubElement(source, "link", rel="self", href=address)
    return _document(root)


def json_feed(channel: Channel, articles: Sequence[Article], feeds: Mapping[str, Feed]) -> bytes:
    """JSON Feed 1.1; `_frugal` holds what the summary took."""
    items: list[dict[str, Any]] = []
    for article in articles:
        item: dict[str, Any] = {
            "id": _urn("article", article.id),
            "title": _title(article),
            "content_text": _summary(article),
            "date_published": _rfc3339(_published(article)),
            "date_modified": _rfc3339(updated_at([article])),
        }
        if line := _line(article):
            item["summary"] = line
        if tags := _tags(article):
            item["tags"] = list(tags)
        if link := public_address(article.link):
            item["url"] = link
        if author := article.author.strip():
            item["authors"] = [{"name": author}]
        if made := article.summary:
            feed = feeds.get(article.feed_id)
            about = (
                {"article_id": article.id, "feed_id": article.feed_id, "feed_title": feed.title if feed else ""} if article.feed_id else {}
            )
            took = {"model": made.model, "compute_s": made.compute_s, "cost_usd": made.cost_usd}
            item["_frugal"] = {**about, **took, "grounding": made.grounding}
        items.append(item)
    document = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": channel.title,
        "description": NOTE,
        "home_page_url": channel.home,
        "feed_url": channel.own,
        "authors": [{"name": AUTHOR}],
        "items": items,
    }
    return json.dumps(document, ensure_ascii=False).encode(errors="replace")


def _document(root: ET.Element) -> bytes:
    text = ET.tostring(root, encoding="unicode")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + text.encode(errors="replace")


def _text(parent: ET.Element, name: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, name, {key: _clean(value) for key, value in attributes.items()}).text = _clean(text)


def _clean(text: str) -> str:
    """Without what no XML document may hold, not even escaped."""
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _title(article: Article) -> str:
    return next(text for text in (article.title, _summary(article)[:80], article.link, article.id) if text.strip())


def _summary(article: Article) -> str:
    return article.summary.text if article.summary else ""


def _line(article: Article) -> str:
    """The summary in one line, where that is less than all of it."""
    line = article.summary.headline if article.summary else ""
    return line if line != _summary(article) else ""


def _tags(article: Article) -> tuple[str, ...]:
    return tuple(tag for tag in article.summary.tags if tag.strip()) if article.summary else ()


def _html(text: str) -> str:
    """Paragraphs: what a model wrote is text, whatever it looks like."""
    return "".join(f"<p>{escape(part, quote=False)}</p>" for part in text.split("\n") if part.strip())


def _own_address(feed: Feed) -> str | None:
    """Where anybody may read this feed; None where that needs a password, which may stand anywhere in an address that has one."""
    return public_address(feed.url) if masked(feed.url) == feed.url else None


def _published(article: Article) -> float:
    return article.first_seen_at if article.published_at is None else article.published_at


def _urn(kind: str, name: str) -> str:
    return uuid.uuid5(NAMESPACE, f"{kind}:{name}").urn


def time_of(seconds: float) -> dt.datetime:
    """To the second, in UTC."""
    try:
        return dt.datetime.fromtimestamp(int(seconds), dt.UTC)
    except (ValueError, OverflowError, OSError):  # no calendar has it
        return dt.datetime.fromtimestamp(0, dt.UTC)


def _rfc822(seconds: float) -> str:
    return format_datetime(time_of(seconds), usegmt=True)


def _rfc3339(seconds: float) -> str:
    return time_of(seconds).isoformat().replace("+00:00", "Z")
