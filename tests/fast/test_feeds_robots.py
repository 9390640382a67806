"""robots.txt as RFC 9309 has it."""

from __future__ import annotations

import time

import pytest

from serve_app.errors import FetchError
from serve_app.feeds.robots import Robots, Rules
from tests.fast.fakes_feeds import Clock

TWICE = "User-agent: frugalserve\nDisallow: /a\n\nUser-agent: *\nDisallow: /\n\nUser-agent: FRUGALSERVE\nDisallow: /b\n"


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /\nAllow: /blog", "/blog/a", True),
        ("User-agent: *\nAllow: /p\nDisallow: /p", "/p", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /*.gif$", "/a.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/a.gif?x", True),
        ("User-agent: *\nDisallow: /a*b*c", "/a1b2c3", False),
        ("User-agent: *\nDisallow: /x$", "/xy", True),
        ("User-agent: *\nDisallow: /%7ejoe # why", "/~joe/a", False),
        ("User-agent: *\nDisallow: /ä", "/%C3%A4", False),
        ("User-agent: FrugalServe/1\nAllow: /\n\nUser-agent: *\nDisallow: /", "/a", True),
        ("User-agent: other\nUser-agent: frugalserve\nDisallow: /", "/a", False),
        ("User-agent: other\nDisallow: /", "/a", True),
        ("User-agent: *\nDisallow: /", "/robots.txt", True),
        ("\ufeffUser-agent: *\r\nDisallow: /a\r\n", "/a", False),
        ("<html>no rules</html>", "/a", True),
        ("", "/a", True),
        ("User-agent: serve\nDisallow: /", "/a", True),
        ("User-agent: *\nAllow: /\nDisallow: /a", "/a/b", False),
        ("User-agent: *\nDisallow: /*?", "/x?y=1", False),
        ("User-agent: *\nDisallow: /A", "/a", True),
        ("User-agent: *\nDisallow: /a%2Fb", "/a/b", True),
        ("User-agent: x\nUser-agent: *\nSitemap: https://x.test/s.xml\nDisallow: /a", "/a", False),
        (TWICE, "/a", False),
        (TWICE, "/b", False),
        (TWICE, "/c", True),
    ],
)
def test_the_longest_rule_of_our_group_decides(text: str, path: str, allowed: bool) -> None:
    assert Rules.read(text.encode()).allow(path) is allowed


async def test_a_site_is_asked_once_a_day_a_missing_file_allows_and_one_that_cannot_be_had_does_not() -> None:
    asked: list[str] = []
    clock, status = Clock(), 404

    async def fetch(url: str, feed_url: str) -> bytes:
        asked.append(url)
        raise FetchError("no", http_status=status)

    robots = Robots(fetch, clock)
    assert await robots.allow("https://x.test/a", "https://x.test/feed")
    assert await robots.allow("https://x.test/b?c", "https://x.test/feed")
    assert asked == ["https://x.test/robots.txt"]
    status = 503
    clock.pass_s(90_000)
    for _again in range(2):
        with pytest.raises(FetchError, match=r"robots\.txt cannot be had"):
            await robots.allow("https://x.test/a", "https://x.test/feed")
    assert len(asked) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"a:" + b" " * 250_000 + b"x" + b" " * 250_000 + b"y",  # a regular expression with two runs of spaces took over an hour for this
        b"User-agent: *\nDisallow: /" + b"*a" * 240_000 + b"b",
        b"User-agent: x\n" * 35_000 + b"Disallow: /",
    ],
    ids=["spaces", "stars", "agents"],
)
def test_a_hostile_file_is_read_in_no_time(body: bytes) -> None:
    began = time.process_time()
    assert Rules.read(body).allow("/" + "a" * 4_000)
    assert time.process_time() - began < 5
