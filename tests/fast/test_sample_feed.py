"""The bundled sample feed is valid, self-contained and worth digesting."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from datetime import datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import feedparser
import pytest

FEED = Path(__file__).resolve().parents[2] / "serve_app" / "sample" / "feed.xml"
CONTENT = "{http://purl.org/rss/1.0/modules/content/}encoded"
CREATOR = "{http://purl.org/dc/elements/1.1/}creator"
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ALLOWED_TAGS = {"p", "h2", "ul", "li", "code", "pre", "em", "strong"}


class _Page(HTMLParser):
    """Collects the visible text and every opening tag with its attributes."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.attributes: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes.extend(name for name, _ in attrs)
        self.text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)
        self.text.append(" ")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def words(self) -> int:
        return len("".join(self.text).split())


def _root() -> ET.Element:
    return ET.fromstring(FEED.read_bytes())


def _items() -> list[ET.Element]:
    return _root().findall("channel/item")


def _field(item: ET.Element, name: str) -> str:
    """The text of a required child element."""
    text = (item.findtext(name) or "").strip()
    assert text, f"{name} is missing or empty"
    return text


def _column(name: str) -> list[str]:
    return [_field(item, name) for item in _items()]


def _slug(item: ET.Element) -> str:
    return _field(item, "guid").removeprefix("frugal-sample:")


def _parsed() -> Any:
    return feedparser.parse(io.BytesIO(FEED.read_bytes()))


def _assert_rfc822(stamp: str) -> datetime:
    """A date with a zone, whose weekday is the one the calendar gives."""
    moment = parsedate_to_datetime(stamp)
    assert moment.tzinfo is not None, stamp
    assert stamp.split(",")[0] == WEEKDAYS[moment.weekday()], stamp
    return moment


every_item = pytest.mark.parametrize("item", _items(), ids=_slug)


def test_feedparser_reads_rss_2_without_complaint() -> None:
    parsed = _parsed()
    assert not parsed.bozo
    assert parsed.version == "rss20"
    assert len(parsed.entries) >= 12


def test_both_parsers_agree_on_the_items() -> None:
    entries = _parsed().entries
    assert [entry.id for entry in entries] == _column("guid")
    assert [entry.link for entry in entries] == _column("link")
    assert [entry.title for entry in entries] == _column("title")


def test_root_and_channel() -> None:
    root = _root()
    assert (root.tag, root.get("version")) == ("rss", "2.0")
    for name in ("title", "link", "description", "language", "ttl"):
        assert root.findtext(f"channel/{name}"), name


def test_channel_links_to_itself() -> None:
    links = _parsed().feed.links
    assert any(link.rel == "self" for link in links)


@pytest.mark.parametrize("name", ["guid", "title", "link"])
def test_values_are_unique(name: str) -> None:
    values = _column(name)
    assert len(set(values)) == len(values)


def test_dates_descend_and_weekdays_are_true() -> None:
    moments = [_assert_rfc822(stamp) for stamp in _column("pubDate")]
    assert moments == sorted(moments, reverse=True)


def test_build_date_is_not_older_than_the_newest_item() -> None:
    built = _assert_rfc822(_root().findtext("channel/lastBuildDate") or "")
    assert built >= parsedate_to_datetime(_column("pubDate")[0])


@every_item
def test_item_is_complete(item: ET.Element) -> None:
    slug = _slug(item)
    assert _field(item, "guid") == f"frugal-sample:{slug}"
    assert _field(item, "link") == f"https://frugal-serve.example/articles/{slug}"
    assert _field(item, CREATOR) == "Frugal Serve"
    assert 1 <= len(item.findall("category")) <= 2
    assert len(_field(item, "description").split()) >= 10


@every_item
def test_guid_is_not_a_permalink(item: ET.Element) -> None:
    guid = item.find("guid")
    assert guid is not None
    assert guid.get("isPermaLink") == "false"


@every_item
def test_item_has_a_full_text(item: ET.Element) -> None:
    assert 300 <= _Page(_field(item, CONTENT)).words() <= 900


@every_item
def test_item_loads_nothing_from_outside(item: ET.Element) -> None:
    page = _Page(_field(item, CONTENT))
    assert set(page.opened) <= ALLOWED_TAGS
    assert page.attributes == []


@every_item
def test_every_tag_is_closed(item: ET.Element) -> None:
    page = _Page(_field(item, CONTENT))
    assert sorted(page.opened) == sorted(page.closed)
