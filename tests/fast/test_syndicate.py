"""Published feeds: what validators ask of them, read by feedparser and by our own parser, with texts that break careless writers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree as ET

import feedparser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api import syndicate
from serve_app.api.syndicate import ATOM, Channel
from serve_app.feeds.parse import parse
from serve_app.messages_feeds import Article, Feed
from tests.fast.fakes_api import article, feed, summary

Write = Callable[[Channel, Sequence[Article], Mapping[str, Feed]], bytes]
ADDRESS = "http://127.0.0.1:8000"
CHANNEL = Channel("Frugal Serve · a & b", f"{ADDRESS}/?text=a+%26+b", f"{ADDRESS}/feed.rss?text=a+%26+b", (("text", "a & b"),))
FEEDS = {"feed0": feed()}
NASTY = "Fish & chips <b>\"cheap\"</b> ]]> 日本 🐟 \u202eright\u202c &amp; 'x'"
BOTH: list[Write] = [syndicate.rss, syndicate.atom]
ALL: list[Write] = [*BOTH, syndicate.json_feed]


def told(text: str = NASTY, id: str = "a0", **changes: Any) -> Article:
    return article(id, title=text, author=text, summary=summary(text), **changes)


@pytest.mark.parametrize("write", ALL)
def test_our_own_reader_gets_every_title_link_text_and_date_back(write: Write) -> None:
    articles = [told("Plain words"), told("Other & words", "a1", published_at=None)]
    found = parse(write(CHANNEL, articles, FEEDS), "http://127.0.0.1:8000/feed", None)
    assert [entry.title for entry in found.entries] == ["Plain words", "Other & words"]
    assert [entry.link for entry in found.entries] == ["https://example.org/a0", "https://example.org/a1"]
    assert [entry.published_at for entry in found.entries] == [1_700_000_000.0, 1_700_000_100.0]
    assert [entry.text for entry in found.entries] == ["Plain words", "Other & words"]
    assert len({entry.guid for entry in found.entries}) == 2


@pytest.mark.parametrize("write", BOTH)
def test_feedparser_finds_nothing_ill_formed_and_the_very_texts(write: Write) -> None:
    document = feedparser.parse(write(CHANNEL, [told()], FEEDS))
    assert not document.bozo
    assert document.feed.title == "Frugal Serve · a & b"
    (entry,) = document.entries
    assert (entry.author, entry.link) == (NASTY, "https://example.org/a0")
    assert entry.id.startswith("urn:uuid:")
    html = entry.summary if write is syndicate.rss else entry.content[0].value
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


@pytest.mark.parametrize("write", ALL)
def test_ids_are_the_articles_and_not_the_summarys_the_filters_or_the_servers(write: Write) -> None:
    elsewhere = Channel("Other", "https://reader.example/", "https://reader.example/feed")
    again = dataclasses.replace(summary("Written anew"), created_at=1_800_000_000.0)
    first, second = ids(write, CHANNEL, told()), ids(write, elsewhere, article(summary=again))
    assert first == second
    assert len(first) == 1


def ids(write: Write, channel: Channel, one: Article) -> list[str]:
    return [entry.guid for entry in parse(write(channel, [one], FEEDS), "http://h/", None).entries]


@pytest.mark.parametrize("write", ALL)
def test_the_same_articles_give_the_same_bytes_and_a_new_summary_other_ones(write: Write) -> None:
    polled = {"feed0": feed(last_check_at=5.0, last_success_at=5.0, next_check_at=9.0)}
    assert write(CHANNEL, [told()], FEEDS) == write(CHANNEL, [told()], polled)
    assert write(CHANNEL, [told()], FEEDS) != write(CHANNEL, [told("other")], FEEDS)


def test_rss_has_what_the_validator_asks_for() -> None:
    root = ET.fromstring(syndicate.rss(CHANNEL, [told(), told(id="a1", link="javascript:alert(1)")], FEEDS))
    channel = root[0]
    assert (root.tag, root.get("version"), channel.tag) == ("rss", "2.0", "channel")
    assert all(channel.findtext(name) for name in ("title", "link", "description", "lastBuildDate"))
    own = channel.find(f"{{{ATOM}}}link")
    assert own is not None
    assert (own.get("rel"), own.get("href"), own.get("type")) == ("self", CHANNEL.own, "application/rss+xml")
    items = channel.findall("item")
    assert [item.find("guid").get("isPermaLink") for item in items] == ["false", "false"]  # type: ignore[union-attr]
    assert [item.findtext("link") for item in items] == ["https://example.org/a0", None]
    assert all(parsedate_to_datetime(item.findtext("pubDate") or "").tzinfo for item in items)
    assert items[0].find("author") is None, "RSS wants an address of e-mail there"
    assert {item.find("source").get("url") for item in items} == {"https://example.org/feed.xml"}  # type: ignore[union-attr]


def test_atom_has_what_the_validator_asks_for() -> None:
    root = ET.fromstring(syndicate.atom(CHANNEL, [told(), told(id="a1", link="")], FEEDS))
    name = "{" + ATOM + "}"
    assert root.tag == name + "feed"
    links = {link.get("rel"): link.get("href") for link in root.findall(name + "link")}
    assert links == {"self": CHANNEL.own, "alternate": CHANNEL.home}
    entries = root.findall(name + "entry")
    for one in (root, *entries):
        assert (one.findtext(name + "id") or "").startswith("urn:uuid:")
        assert one.findtext(name + "title")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.findtext(name + "updated") or "")
    assert all(one.find(name + "content") is not None for one in entries), "an entry without a link must have content"
    assert root.find(f"{name}author/{name}name") is not None
    assert len({one.findtext(name + "id") for one in (root, *entries)}) == 3


def test_json_feed_has_what_its_standard_asks_for() -> None:
    document = json.loads(syndicate.json_feed(CHANNEL, [told()], FEEDS))
    assert document["version"] == "https://jsonfeed.org/version/1.1"
    assert (document["home_page_url"], document["feed_url"]) == (CHANNEL.home, CHANNEL.own)
    (item,) = document["items"]
    assert item["content_text"] == NASTY
    assert dt.datetime.fromisoformat(item["date_published"]).timestamp() == 1_700_000_000
    assert item["_frugal"]["feed_title"] == "Example"


@pytest.mark.parametrize("write", ALL)
def test_a_password_in_a_feeds_address_stays_here(write: Write) -> None:
    private = {"feed0": feed(url="https://ann:secret@example.org/feed.xml")}
    assert b"secret" not in write(CHANNEL, [told()], private)


@pytest.mark.parametrize("write", ALL)
def test_without_articles_it_is_a_feed_all_the_same(write: Write) -> None:
    assert parse(write(CHANNEL, [], {}), "http://h/", None).entries == ()


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_a_model_writes_the_documents_stay_well_formed(title: str, text: str) -> None:
    odd = article(title=title, author=title, guid=title, link=text, summary=summary(text), published_at=1e300)
    ET.fromstring(syndicate.rss(CHANNEL, [odd], FEEDS))
    ET.fromstring(syndicate.atom(CHANNEL, [odd], FEEDS))
    json.loads(syndicate.json_feed(CHANNEL, [odd], FEEDS))
