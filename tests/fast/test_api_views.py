"""How values look on the pages."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.api.pages.views import Figure, cost_strip, day, iso, minute, next_page, paragraphs, safe_link, seconds, usd
from serve_app.api.schemas import ArticleParams

REPORT = {
    "requests": {"total": 1234, "by_outcome": {"hit": 900, "join": 34, "miss": 300, "bypass": 0}, "hit_ratio": 0.757},
    "tokens": {"prompt": 1, "completion": 2},
    "compute": {"spent_s": 130.0, "avoided_by_cache_s": 7300.0, "avoided_by_batching_s": 0.5},
    "cost": {"usage_usd": 0.001806, "allocation_usd": 1.2},
}


def test_the_strip_shows_what_was_measured() -> None:
    assert cost_strip(REPORT) == [
        Figure("requests", "1,234", "900 hit, 34 join, 300 miss"),
        Figure("answers reused", "76%", "from the cache, or shared with a live one"),
        Figure("compute spent", "2.17 min", ""),
        Figure("avoided by the cache", "2.03 h", "compute not done again"),
        Figure("avoided by batching", "0.50 s", "against one at a time"),
        Figure("cost, by usage", "$0.0018", "work done"),
        Figure("cost, by allocation", "$1.20", "idle time included"),
    ]


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"requests": None},
        {"requests": []},
        {"requests": {"total": "many"}},
        {"compute": {"spent_s": float("nan")}},
        {"cost": {"usage_usd": True}},
    ],
)
def test_what_was_not_measured_is_not_shown(report: dict[str, Any]) -> None:
    assert cost_strip(report) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/a?b=c#d", True),
        ("HTTP://EXAMPLE.ORG", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        (" https://example.org", False),
        ("java\nscript:alert(1)", False),
        ("https://exa\tmple.org", False),
        ("data:text/html,x", False),
        ("vbscript:x", False),
        ("//example.org/x", False),
        ("https://", False),
        ("https:///path", False),
        ("https://[::1", False),
        ("/relative", False),
        ("", False),
        (None, False),
    ],
)
def test_only_http_and_https_are_linked(url: str | None, shown: bool) -> None:
    assert safe_link(url) == (url if shown else None)


def test_times_are_utc_and_absent_where_they_make_no_sense() -> None:
    assert (day(0.0), minute(0.0), iso(0.0)) == ("1 Jan 1970", "1 Jan 1970, 00:00 UTC", "1970-01-01T00:00:00+00:00")
    assert [day(time) for time in (None, 1e300, float("nan"))] == ["", "", ""]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 s"), (0.456, "0.46 s"), (45.67, "45.7 s"), (119, "119 s"), (3600, "60.0 min"), (86_400, "24.0 h"), (1e6, "11.6 days")],
)
def test_lengths_of_time(value: float, shown: str) -> None:
    assert seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0, "$0.00"), (0.0000057, "$0.0000057"), (0.01, "$0.01"), (1234.5, "$1,234.50")])
def test_dollars(value: float, shown: str) -> None:
    assert usd(value) == shown


def test_paragraphs_are_split_at_empty_lines() -> None:
    assert paragraphs("a\nb\n \n\nc\n") == ["a\nb", "c"]


def test_the_next_page_keeps_the_filter() -> None:
    params = ArticleParams(feed="f&1", state="done", cursor="old")
    assert next_page(params, "a b") == "/?feed=f%261&state=done&cursor=a+b"
    assert next_page(params, None) is None
