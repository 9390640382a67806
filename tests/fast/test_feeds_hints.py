"""What a feed says about when to look again, and who will tell when something is new."""

from __future__ import annotations

import calendar
import json

import pytest

from serve_app.feeds.headers import hub_and_topic, max_age_s
from serve_app.feeds.hints import Skips
from serve_app.feeds.parse import parse
from tests.fast.test_feeds_parse import URL, rss

DAY_S = 86_400.0
MONDAY_NOON = float(calendar.timegm((2024, 1, 1, 12, 30, 0)))


@pytest.mark.parametrize(
    ("head", "wait_s"),
    [
        ("", None),
        ("<ttl>90</ttl>", 5400.0),
        ("<ttl>0</ttl>", None),
        ("<ttl>soon</ttl>", None),
        ("<sy:updatePeriod>daily</sy:updatePeriod><sy:updateFrequency>2</sy:updateFrequency>", 43_200.0),
        ("<sy:updatePeriod> Weekly </sy:updatePeriod><ttl>5</ttl>", 604_800.0),
        ("<sy:updatePeriod>often</sy:updatePeriod>", None),
    ],
)
def test_ttl_and_syndication_periods_are_seconds(head: str, wait_s: float | None) -> None:
    body = rss("", head).replace(b"<rss ", b"<rss xmlns:sy='http://purl.org/rss/1.0/modules/syndication/' ")
    assert parse(body, URL, None).ttl_s == wait_s


def test_skipped_hours_and_days_are_all_kept() -> None:
    head = "<skipHours><hour>0</hour><hour> 24</hour><hour>13</hour><hour>99</hour></skipHours><skipdays><day>Sunday</day></skipdays>"
    assert parse(rss("", head), URL, None).skips == "h0 h13 d6"
    assert parse(rss(""), URL, None).skips is None


@pytest.mark.parametrize(
    ("skips", "later_s"),
    [
        (Skips(), 0.0),
        (Skips(frozenset({11})), 0.0),
        (Skips(frozenset({12, 13})), 5400.0),
        (Skips(days=frozenset({0})), DAY_S / 2 - 1800),
        (Skips(frozenset({0}), frozenset({0, 1})), 1.5 * DAY_S + 1800),
        (Skips(frozenset(range(24))), 0.0),
    ],
)
def test_a_check_waits_for_an_hour_that_is_not_skipped(skips: Skips, later_s: float) -> None:
    assert skips.next_open(MONDAY_NOON) == MONDAY_NOON + later_s
    assert Skips.read(skips.write()) == skips


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Cache-Control": "public, max-age=60", "Expires": "Tue, 02 Jan 2024 00:00:00 GMT"}, 60.0),
        ({"Expires": "Mon, 01 Jan 2024 12:35:00 GMT"}, 300.0),
        ({"Expires": "Mon, 01 Jan 2024 12:35:00 GMT", "Date": "Mon, 01 Jan 2024 12:34:00 GMT"}, 60.0),
        ({"Expires": "0"}, None),
        ({"Expires": "Mon, 01 Jan 1990 00:00:00 GMT"}, 0.0),
        ({"Cache-Control": "no-cache", "Expires": "Tue, 02 Jan 2024 00:00:00 GMT"}, None),
    ],
)
def test_freshness_comes_from_max_age_or_else_from_expires(headers: dict[str, str], wait_s: float | None) -> None:
    assert max_age_s(headers, MONDAY_NOON) == wait_s


@pytest.mark.parametrize(
    ("links", "found"),
    [
        ((), (None, None)),
        (('<https://hub.test/>; rel="hub", <https://feed.test/>; rel=self',), ("https://hub.test/", "https://feed.test/")),
        (('<https://a.test/>; rel="next hub"', "<https://b.test/>; title=x; REL=hub"), ("https://a.test/", None)),
        (("<<<>>>; rel=;;, <" * 500,), (None, None)),
    ],
)
def test_a_hub_is_found_in_link_headers(links: tuple[str, ...], found: tuple[str | None, str | None]) -> None:
    assert hub_and_topic(links) == found


def test_a_hub_is_found_in_each_kind_of_document() -> None:
    found = ("https://hub.test/", "https://feed.test/self")
    link = '<atom:link xmlns:atom="http://www.w3.org/2005/Atom" rel="{}" href="{}"/>'
    links = f'<link rel="hub" href="{found[0]}"/><link rel="self" href="../self"/>'
    atom = f'<feed xmlns="http://www.w3.org/2005/Atom" xml:base="https://feed.test/x/">{links}</feed>'
    items = {"version": "https://jsonfeed.org/version/1", "items": [], "hubs": [{"type": "WebSub", "url": found[0]}], "feed_url": found[1]}
    for body in (
        rss("", link.format("hub", found[0]) + link.format("self", found[1])),
        atom.encode(),
        json.dumps(items).encode(),
    ):
        parsed = parse(body, URL, None)
        assert (parsed.hub, parsed.topic) == found
    assert parse(rss("", link.format("hub", "javascript:x")), URL, None).hub is None
