"""How values look on the pages."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.api.pages.views import (
    Figure,
    Worth,
    cost_strip,
    day,
    iso,
    minute,
    next_page,
    paragraphs,
    safe_link,
    seconds,
    size,
    usd,
    worth,
)
from serve_app.api.schemas import ArticleParams

AGE_AND_STORED = {
    "token_hit_ratio": 0.8,
    "age": {"mean_s": 130.0, "p50_s": 5.0, "p95_s": 7300.0, "p99_s": 7300.0},
    "stored": {"entries": 1500, "size_bytes": 2_340_000},
}
REPORT = {
    "requests": {"total": 1234, "by_outcome": {"hit": 900, "join": 34, "miss": 300, "bypass": 0}, "hit_ratio": 0.757, **AGE_AND_STORED},
    "cache": {"evictions": 1200},
    "tokens": {"prompt": 1, "completion": 2},
    "compute": {"spent_s": 130.0, "avoided_by_cache_s": 7300.0, "avoided_by_batching_s": 0.5},
    "cost": {"usage_usd": 0.001806, "allocation_usd": 1.2},
}


def test_the_strip_shows_what_was_measured() -> None:
    assert cost_strip(REPORT) == [
        Figure("requests", "1,234", "900 hit, 34 join, 300 miss"),
        Figure("answers reused", "76%", "from the cache, or shared with a live one"),
        Figure("tokens reused", "80%", "of those that were sent"),
        Figure("age when served", "2.17 min", "p50 5.00 s, p95 2.03 h"),
        Figure("stored answers", "1,500", "2.34 MB, 1,200 evicted"),
        Figure("compute spent", "2.17 min", ""),
        Figure("avoided by the cache", "2.03 h", "compute not done again"),
        Figure("avoided by batching", "0.50 s", "against one at a time"),
        Figure("cost, by usage", "$0.0018", "work done"),
        Figure("cost, by allocation", "$1.20", "idle time included"),
    ]


OF_FEED = {"total": 4, "hit_ratio": 0.25, "by_outcome": {"hit": 1, "join": 2, "miss": 1}, "avoided_s": 3.0, **AGE_AND_STORED}
LINE = Worth("Example", "4", "25%", "80%", "2", "3.00 s", "2.17 min", "p50 5.00 s, p95 2.03 h", "1,500", "2.34 MB")


def test_the_cache_by_feed_has_its_names_and_the_most_avoided_first() -> None:
    report = {"by_feed": {"f0": {"avoided_s": 1.0}, "f1": OF_FEED}}
    nothing = Worth("f0", "", "", "", "0", "1.00 s", "", "", "", "")
    assert worth(report, "by_feed", {"f1": "Example"}) == [LINE, nothing]
    assert worth(report, "by_model", {}) == worth({"by_model": None}, "by_model", {}) == []


def test_a_thousand_feeds_are_not_all_on_the_page() -> None:
    report = {"by_feed": {f"f{number}": {"avoided_s": float(number)} for number in range(1000)}}
    assert [line.name for line in worth(report, "by_feed", {})] == [f"f{number}" for number in range(999, 979, -1)]


@pytest.mark.parametrize(
    ("num_bytes", "shown"), [(None, ""), (0, "0 B"), (999, "999 B"), (1500, "1.50 kB"), (2.5e7, "25.0 MB"), (3e12, "3000 GB")]
)
def test_sizes(num_bytes: float | None, shown: str) -> None:
    assert size(num_bytes) == shown


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
