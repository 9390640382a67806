"""Published feeds are valid whatever stands in an article: see feed_validator.py, which is itself tried on documents with one mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import feedparser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api import syndicate
from serve_app.api.syndicate import Channel
from serve_app.feeds.parse import parse
from serve_app.messages_feeds import Article, Feed
from tests.fast.fakes_api import article, feed, summary
from tests.fast.feed_validator import PROBLEMS

Write = Callable[[Channel, Sequence[Article], Mapping[str, Feed]], bytes]
WRITE: dict[str, Write] = {"rss": syndicate.rss, "atom": syndicate.atom, "json": syndicate.json_feed}
OWN = "http://127.0.0.1:8000/feed?text=a+%26+b"
CHANNEL = Channel("Frugal Serve · a & b", "http://127.0.0.1:8000/?text=a+%26+b", OWN, (("text", "a & b"),))
FEEDS = {"feed0": feed(), "feed1": feed("feed1", url="sample:", title=""), "feed2": feed("feed2", url="https://h/日本 feed")}
NASTY = [
    "Fish & chips \"cheap\" 'fresh'",
    "<script>alert(1)</script> &lt;b&gt; &amp;amp;",
    "<![CDATA[ ]]> ]]> <!-- -- >",
    "bell\x07 nul\x00 escape\x1b vertical\x0b \ufffe \ud800 line\u2028",
    "\u202eright to left\u202c שלום مرحبا",
    "🐟 👩\u200d👩\u200d👧 日本語 é e\u0301",
    "two\nlines\r\nand\ttabs",
    "",
]
each = pytest.mark.parametrize("kind", WRITE)
words = st.text(max_size=40)


def told(text: str, id: str = "a0", headline: str = "", tags: tuple[str, ...] = (), **changes: Any) -> Article:
    written = dataclasses.replace(summary(text), headline=headline, tags=tags)
    return article(id, **{"title": text, "author": text, "summary": written, **changes})


@each
@pytest.mark.parametrize("headline", ["", "In one line & short <b>"])
def test_nothing_is_wrong_with_a_document_full_of_odd_texts(kind: str, headline: str) -> None:
    feed_ids = ("feed0", "feed1", "feed2", "gone")
    articles = [
        told(text, f"a{i}", headline, (text, "rust"), feed_id=feed_ids[i % 4], link=f"https://h/{text}") for i, text in enumerate(NASTY)
    ]
    assert PROBLEMS[kind](WRITE[kind](CHANNEL, articles, FEEDS), OWN) == []


@each
def test_nothing_is_wrong_with_one_that_has_no_article(kind: str) -> None:
    assert PROBLEMS[kind](WRITE[kind](CHANNEL, [], {}), OWN) == []


@each
@settings(deadline=None)  # time is the machine's
@given(words, words, words, words, st.floats(allow_nan=False))
def test_nothing_is_wrong_whatever_a_feed_says_and_a_model_writes(kind: str, title: str, text: str, link: str, tag: str, at: float) -> None:
    feeds = {"feed0": feed(title=title, url=link)}
    odd = told(text, headline=title, title=title, link=link, published_at=at, tags=(tag,), author=tag)
    assert PROBLEMS[kind](WRITE[kind](CHANNEL, [odd], feeds), OWN) == []


@each
@pytest.mark.parametrize("text", [text for text in NASTY if text and "\x00" not in text])
def test_readers_get_the_text_that_was_written_and_no_markup_of_it(kind: str, text: str) -> None:
    (entry,) = parse(WRITE[kind](CHANNEL, [told(text)], FEEDS), "http://h/", None).entries
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert entry.text.splitlines() == [line for line in lines if line]
    assert entry.title == " ".join(text.split())


@pytest.mark.parametrize("kind", ["rss", "atom"])
def test_headline_summary_tags_and_source_are_where_readers_look_for_them(kind: str) -> None:
    document = feedparser.parse(WRITE[kind](CHANNEL, [told("The whole.", headline="In short.", tags=("rust", "c++"))], FEEDS))
    assert not document.bozo
    (entry,) = document.entries
    assert entry.summary.removeprefix("<p>").removesuffix("</p>") == "In short."
    assert entry.content[0].value == "<p>The whole.</p>"
    assert [tag.term for tag in entry.tags] == ["rust", "c++"]
    assert entry.source.title == "Example"


@each
def test_a_password_in_an_articles_address_stays_here(kind: str) -> None:
    body = WRITE[kind](CHANNEL, [told("Words", link="https://ann:secret@example.org/a")], FEEDS)
    assert b"secret" not in body
    assert b"https://example.org/a" in body


MISTAKES = [
    ("rss", 'isPermaLink="false"', 'isPermaLink="true"', "permalink"),
    ("rss", "Tue, 14 Nov 2023", "14. Nov 2023", "no RFC 822 date"),
    ("rss", "https://example.org/a0", "/a0", "no URI"),
    ("rss", 'rel="self"', 'rel="via"', "self links"),
    ("rss", "<description>", "<about>", "mismatched"),
    ("rss", "&lt;p&gt;", "&lt;p&gt;&lt;script&gt;", "markup"),
    ("atom", "urn:uuid:", "id:", "no URN"),
    ("atom", "2023-11-14T", "2023-11-14 ", "no RFC 3339 date"),
    ("atom", 'type="html"', 'type="text"', "html content"),
    ("atom", 'rel="self"', 'rel="via"', "self link"),
    ("json", "version/1.1", "version/9", "version"),
    ("json", '"content_text"', '"content"', "without content"),
    ("json", "urn:uuid:", "", "no URN"),
]


@pytest.mark.parametrize(("kind", "right", "wrong", "complaint"), MISTAKES)
def test_the_validator_sees_a_mistake(kind: str, right: str, wrong: str, complaint: str) -> None:
    body = WRITE[kind](CHANNEL, [told("Words")], FEEDS).decode()
    assert right in body
    try:
        found = PROBLEMS[kind](body.replace(right, wrong).encode(), OWN)
    except SyntaxError as error:  # ElementTree's ParseError
        found = [str(error)]
    assert any(complaint in problem for problem in found), found


@each
def test_the_validator_sees_an_article_that_is_there_twice(kind: str) -> None:
    assert any("twice" in problem for problem in PROBLEMS[kind](WRITE[kind](CHANNEL, [told("x"), told("x")], FEEDS), OWN))
