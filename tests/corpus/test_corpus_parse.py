"""The real feeds of the corpus: each parses, to at least as many entries as feedparser alone finds, and without a trace of markup.

And so does what chance makes of them: ten thousand documents with pieces cut out, doubled, swapped and put in.
"""

from __future__ import annotations

import io
import pathlib
import re
from typing import Any

import feedparser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.errors import FetchError
from serve_app.feeds.parse import MAX_GUID, MAX_LINK, MAX_TITLE, ParsedFeed, parse
from serve_app.feeds.text import visible_text
from tests.corpus.folder import FILES, NEEDED, name_of

URL = "https://feed.test/feed"

pytestmark = [pytest.mark.corpus, NEEDED]


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".opml"], ids=name_of)
def test_a_real_feed_gives_its_entries_as_plain_text(path: pathlib.Path) -> None:
    body = path.read_bytes()
    alone = feedparser.parse(io.BytesIO(body))
    found = parse(body, URL, None)
    assert len(found.entries) >= len(alone.entries)
    assert len({entry.guid for entry in found.entries}) == len(found.entries)
    assert sum(not entry.title and not entry.text for entry in found.entries) <= 1  # one of the files has an item without either
    for entry in found.entries:
        assert entry.guid
        assert entry.link == "" or entry.link.startswith(("http://", "https://"))
        assert not re.search(r"<(p|div|a|span)[ >]", entry.title)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".opml"], ids=name_of)
def test_a_list_of_feeds_says_that_it_is_one(path: pathlib.Path) -> None:
    with pytest.raises(FetchError, match="OPML"):
        parse(path.read_bytes(), URL, None)


SEED_BYTES = 3_000  # of each file: its channel and first entries, so that ten thousand take a minute
HEAD_BYTES = 600
SEEDS = [path.read_bytes()[:SEED_BYTES] for path in FILES if path.suffix != ".opml"]
# fmt: off
PIECES = [
    b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<item>", b"</item>", b"<entry>", b"</entry>", b"</channel>", b"</rss>", b"<guid>", b"<link>",
    b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"&a;", b"&#0;", b"&#xD800;", b"&lt;", b"&", b"<", b">", b'"', b"\0", b"\xff\xfe", b"\xef\xbb\xbf",
    b"<?xml version='1.0' encoding='utf-16'?>", b"<content type='xhtml'><div>", b"<content src='x'/>", b"<title type='html'>",
    b"xml:base='::'", b"<pubDate>Mon, 99 Foo 0 99:99:99 +9999</pubDate>", b"<updated>9999999999</updated>", b"http://[", b"\xd8\x00",
    b"{", b"}", b"[", b",", b"<media:content url=''/>", b"<georss:point>x y</georss:point>", b"<cc:license rdf:resource=''/>",
    b"<enclosure/>", b"<image><url/></image>",
]
# fmt: on
PLACE = st.one_of(st.integers(0, SEED_BYTES), st.integers(HEAD_BYTES, SEED_BYTES))
CHANGE = st.one_of(
    st.tuples(st.just("put"), PLACE, st.sampled_from(PIECES)),
    st.tuples(st.just("put"), PLACE, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("cut"), PLACE, st.integers(1, 400)),
    st.tuples(st.just("double"), PLACE, st.integers(1, 400)),
    st.tuples(st.just("end"), PLACE, st.just(0)),
)


def changed(body: bytes, changes: list[tuple[str, int, Any]]) -> bytes:
    """A document after these accidents."""
    for kind, at, what in changes:
        if kind == "put":
            body = body[:at] + what + body[at:]
        elif kind == "cut":
            body = body[:at] + body[at + what :]
        elif kind == "double":
            body = body[: at + what] + body[at:]
        else:
            body = body[:at]
    return body


@settings(max_examples=10_000, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(seed=st.sampled_from(SEEDS or [b""]), changes=st.lists(CHANGE, min_size=1, max_size=6))
def test_a_spoilt_feed_gives_what_feedparser_finds_or_a_reason_and_never_an_exception(
    seed: bytes, changes: list[tuple[str, int, Any]]
) -> None:
    body = changed(seed, changes)
    # A torn head (half a document type, a stray byte order mark) may hide what feedparser, which skips over it, still finds.
    has_head = min(at for _kind, at, _what in changes) >= HEAD_BYTES and not seed.startswith(b"{")
    expected = num_alone(body) if has_head else 0
    try:
        found = parse(body, URL, None)
    except FetchError:
        assert expected == 0
        return
    check(found)
    assert len(found.entries) >= expected


def check(found: ParsedFeed) -> None:
    """What holds of any document."""
    assert len({entry.guid for entry in found.entries}) == len(found.entries)
    for entry in found.entries:
        assert entry.guid
        assert len(entry.guid.encode()) <= MAX_GUID
        assert entry.link == "" or entry.link.startswith(("http://", "https://"))
        assert len(entry.link) <= MAX_LINK
        assert len(entry.title) <= MAX_TITLE
        assert not re.search(r"[\x00-\x08\ud800-\udfff]", entry.title + entry.text + entry.author + entry.guid)


def num_alone(body: bytes) -> int:
    """The entries that feedparser finds by itself in what it takes for a feed, without empty ones and those that read like another;
    none where it raises."""
    try:
        read = feedparser.parse(io.BytesIO(body), sanitize_html=False, resolve_relative_uris=False)
    except Exception:
        return 0
    found = {(_seen(entry, "id", "link"), _seen(entry, "link"), _seen(entry, "title"), _seen(entry, "summary")) for entry in read.entries}
    return len(found - {("", "", "", "")}) if read.get("version") else 0


def _seen(entry: Any, *names: str) -> str:
    """The first of these fields that there is, as a reader sees it."""
    return next((" ".join(visible_text(str(entry[name])).split()) for name in names if entry.get(name)), "")
