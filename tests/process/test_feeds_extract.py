"""The text of an article's page, by the real trafilatura, here and in the parser process: no menu, no markup, any encoding."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.errors import FetchError
from serve_app.feeds import parser_child
from serve_app.feeds.extract import MISSING, extract, missing
from serve_app.feeds.parsing import Parsers
from tests.fast.fakes_pages import SENTENCES, web_page
from tests.fast.test_feeds_parse import URL
from tests.process.test_feeds_parsing import FEED

pytestmark = pytest.mark.skipif(missing() is not None, reason=MISSING)


@pytest.fixture
async def parsers() -> AsyncIterator[Parsers]:
    found = Parsers(1, module="tests.process.test_feeds_parsing")
    yield found
    await found.close()


def test_only_the_article_is_taken_and_as_plain_lines() -> None:
    text = extract(web_page(), URL, "text/html")
    assert [line for line in SENTENCES if line not in text.splitlines()] == []
    assert not any(word in text for word in ("Home", "Imprint", "comment", "alert", "<", "&"))


@pytest.mark.parametrize(
    ("encoding", "content_type", "meta"),
    [
        ("utf-8", "text/html; charset=utf-8", ""),
        ("windows-1251", "text/html; charset=windows-1251", '<meta charset="utf-8">'),
        ("windows-1251", "text/html", '<meta charset="windows-1251">'),
        ("utf-8", "text/html; charset=no-such-charset", ""),
        ("utf-8", None, ""),
    ],
)
def test_the_header_names_the_encoding_and_else_the_page_itself(encoding: str, content_type: str | None, meta: str) -> None:
    lines = ["Новый планировщик вдвое быстрее прежнего и проще устроен.", "Он работает на одной машине дома, и всё в нём понятно."]
    assert lines[1] in extract(web_page(lines * 3, meta).decode().encode(encoding), URL, content_type)


@pytest.mark.parametrize(
    "body", [b"", b"\x00\xff\xfe", b"<html><body></body></html>", b'<?xml version="1.0" encoding="utf-8"?>', b"<" * 1000]
)
def test_a_page_without_an_article_gives_nothing(body: bytes) -> None:
    assert extract(body, URL, "text/html; charset=utf-8") == extract(body, URL, None) == ""


def test_an_xhtml_page_that_declares_another_encoding_than_its_header_is_read() -> None:
    page = b'<?xml version="1.0" encoding="iso-8859-1"?><!DOCTYPE html>' + web_page()
    assert SENTENCES[0] in extract(page, URL, "application/xhtml+xml; charset=utf-8")


async def test_a_page_is_read_in_the_process_that_reads_feeds(parsers: Parsers) -> None:
    assert await parsers.extract(web_page(), URL, "text/html") == extract(web_page(), URL, "text/html")
    assert len((await parsers(FEED, URL, None)).entries) == 2


async def test_a_page_that_computes_without_end_is_given_up_and_the_next_one_is_read(parsers: Parsers) -> None:
    with pytest.raises(FetchError) as caught:
        await parsers.extract(b"compute", URL, "text/html")
    assert caught.value.message == f"the page takes more than {parser_child.MAX_CPU_S} s of computing to read; tell its owner"
    assert SENTENCES[0] in await parsers.extract(web_page(), URL, "text/html")


def test_a_part_of_the_extra_that_is_missing_is_the_whole_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.feeds.extract.MODULES", ("trafilatura", "no_such_module_anywhere"))
    assert missing() == MISSING
    with pytest.raises(FetchError, match=r"pip install 'frugal-serve\[fulltext\]'"):
        extract(web_page(), URL, None)
