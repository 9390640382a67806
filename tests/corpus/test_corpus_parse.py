"""The real feeds of the corpus: each parses, to at least as many entries as feedparser alone finds, and without a trace of markup.

The data folder is FRUGAL_CORPUS, or ../shared/feeds beside the repository.
"""

from __future__ import annotations

import io
import os
import pathlib
import re
import tarfile

import feedparser
import pytest

from serve_app.errors import FetchError
from serve_app.feeds.decide import Decision, decide
from serve_app.feeds.parse import parse
from serve_app.messages import Feed
from serve_app.settings import FeedsSettings
from serve_app.store.records import KnownArticle

FOLDER = pathlib.Path(os.environ.get("FRUGAL_CORPUS") or pathlib.Path(__file__).parents[2].parent / "shared" / "feeds")
FILES = sorted(path for name in ("stripe", "open", "edge") for path in (FOLDER / name).glob("*") if path.is_file())
SERIES = sorted((FOLDER / "series").glob("*.tar.xz"))
URL = "https://feed.test/feed"

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not FILES, reason="no feeds found: set FRUGAL_CORPUS to the folder that has stripe/, open/, edge/ and series/"),
]


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".opml"], ids=lambda path: path.name)
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


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".opml"], ids=lambda path: path.name)
def test_a_list_of_feeds_says_that_it_is_one(path: pathlib.Path) -> None:
    with pytest.raises(FetchError, match="OPML"):
        parse(path.read_bytes(), URL, None)


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.name.split(".")[0])
def test_a_replayed_series_loses_no_entry_and_redoes_only_texts_that_changed(path: pathlib.Path) -> None:
    """A sixth of the published versions, in order: what is asked for is one summary per distinct text of an id, and never one twice."""
    settings = FeedsSettings(min_words=0, max_new_per_check=10_000)
    feed = Feed("f", URL, "config", "new", "", 0.0, 0.0)
    known: dict[str, KnownArticle] = {}
    asked: list[tuple[str, str]] = []
    with tarfile.open(path) as archive:
        versions = sorted(member.name for member in archive if member.name.endswith(".xml"))
        for name in versions[::6]:
            stream = archive.extractfile(name)
            assert stream is not None
            parsed = parse(stream.read(), URL, None)
            decision = decide(feed, known, parsed, 1.0, settings)
            for article in (*decision.new, *decision.changed):
                assert (article.guid, article.text_hash) not in asked[-len(decision.new) - len(decision.changed) :]
                asked.append((article.guid, article.text_hash))
                known[article.guid] = KnownArticle(article.text_hash, "done", 1.0)
            assert {entry.guid for entry in parsed.entries} <= known.keys()
            assert decide(feed, known, parsed, 2.0, settings) == Decision()
    assert asked
