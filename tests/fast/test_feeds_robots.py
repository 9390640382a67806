"""robots.txt as RFC 9309 has it."""

from __future__ import annotations

import pytest

from serve_app.errors import FetchError
from serve_app.feeds.robots import Robots, Rules
from tests.fast.fakes_feeds import Clock


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
