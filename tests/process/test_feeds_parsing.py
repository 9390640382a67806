"""Parsing in another process: the same result, the same reasons, and an end for what takes too long or too much."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator

import pytest

from serve_app.errors import FetchError
from serve_app.feeds import parser_child
from serve_app.feeds.extract import extract
from serve_app.feeds.parse import parse
from serve_app.feeds.parsing import Parsers
from tests.fast.fakes_feeds import until
from tests.fast.test_feeds_parse import URL, rss

FEED = rss("<item><guid>é</guid><title>a</title></item><item><guid>2</guid><link>/x</link></item>", "<ttl>7</ttl>")


@pytest.fixture
async def parsers() -> AsyncIterator[Parsers]:
    found = Parsers(1, module=__name__)
    yield found
    await found.close()


async def reason(parsers: Parsers, body: bytes) -> str:
    with pytest.raises(FetchError) as caught:
        await parsers(body, URL, None)
    return caught.value.message


async def test_a_document_is_read_as_here_and_what_is_none_has_the_same_reason(parsers: Parsers) -> None:
    assert await parsers(FEED, URL, "text/xml") == parse(FEED, URL, "text/xml")
    assert "web page" in await reason(parsers, b"<html><body>")
    assert (await parsers(FEED, URL, None)).entries[0].guid == "é"


async def test_a_document_that_computes_or_grows_without_end_is_given_up_and_the_next_one_is_read(parsers: Parsers) -> None:
    assert await reason(parsers, b"compute") == f"the feed takes more than {parser_child.MAX_CPU_S} s of computing to read; tell its owner"
    assert "of memory to read" in await reason(parsers, b"grow")
    assert "status -9" in await reason(parsers, b"die")
    assert len((await parsers(FEED, URL, None)).entries) == 2


async def test_a_check_that_is_cancelled_ends_its_process_and_others_wait_for_their_turn(parsers: Parsers) -> None:
    stuck = asyncio.create_task(parsers(b"hang", URL, None))
    waiting = asyncio.create_task(parsers(FEED, URL, None))
    await until(parsers._free.locked)
    stuck.cancel()
    assert len((await waiting).entries) == 2
    assert stuck.cancelled()


async def test_a_process_that_was_ended_while_it_waited_is_replaced(parsers: Parsers) -> None:
    await parsers(FEED, URL, None)
    (process,) = parsers._idle
    process.kill()
    await process.wait()
    assert len((await parsers(FEED, URL, None)).entries) == 2


def hostile(body: bytes, url: str, content_type: str | None) -> object:
    """What the child of these tests does instead of parsing."""
    if body == b"compute":
        resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))  # instead of waiting for the real one
        while True:
            pass
    if body == b"grow":
        return bytearray(2 * parser_child.MAX_MEMORY)
    if body == b"hang":
        return sys.stdin.buffer.read()
    if body == b"die":
        os.kill(os.getpid(), 9)
    return parse(body, url, content_type)


def hostile_page(body: bytes, url: str, content_type: str | None) -> object:
    """The same for pages; see test_feeds_extract.py."""
    return hostile(body, url, None) if body == b"compute" else extract(body, url, content_type)


if __name__ == "__main__":
    parser_child.extract = hostile_page  # type: ignore[assignment,attr-defined]
    parser_child.parse = hostile  # type: ignore[assignment,attr-defined]
    parser_child.main()
