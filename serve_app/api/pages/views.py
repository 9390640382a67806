"""How values look on the pages. Pure: plain data in, plain text out; the templates escape it.

Tests: tests/fast/test_api_views.py.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from serve_app.api.schemas import ArticleParams
from serve_app.feed_url import masked
from serve_app.messages import REUSED
from serve_app.messages_feeds import DailyDigest, Feed

MAX_WORTH = 20  # feeds in the cache's table; the report has all


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the cost strip."""

    label: str
    value: str
    note: str = ""


def cost_strip(report: Mapping[str, Any]) -> list[Figure]:
    """The few numbers of the report that fit on one line. What was not measured is not shown."""
    rows = [
        ("requests", _count(_number(report, "requests", "total")), _outcomes(report)),
        ("answers reused", _percent(_number(report, "requests", "hit_ratio")), "from the cache, or shared with a live one"),
        ("tokens reused", _percent(_number(report, "requests", "token_hit_ratio")), "of those that were sent"),
        ("age when served", seconds(_number(report, "requests", "age", "mean_s")), _quantiles(report, "requests", "age")),
        ("stored answers", _count(_number(report, "requests", "stored", "entries")), _held(report)),
        ("compute spent", seconds(_number(report, "compute", "spent_s")), ""),
        ("avoided by the cache", seconds(_number(report, "compute", "avoided_by_cache_s")), "compute not done again"),
        ("avoided by batching", seconds(_number(report, "compute", "avoided_by_batching_s")), "against one at a time"),
        ("cost, by usage", usd(_number(report, "cost", "usage_usd")), "work done"),
        ("cost, by allocation", usd(_number(report, "cost", "allocation_usd")), "idle time included"),
    ]
    return [Figure(label, value, note) for label, value, note in rows if value]


@dataclass(frozen=True, slots=True)
class Worth:
    """One line of the cache's table: what it did for one model or one feed."""

    name: str
    requests: str
    reused: str
    tokens: str
    joins: str
    avoided: str
    age: str
    quantiles: str
    stored: str
    size: str


def worth(report: Mapping[str, Any], section: str, names: Mapping[str, str]) -> list[Worth]:
    """The cache by model or by feed (`by_model`, `by_feed`), where it avoided most first, MAX_WORTH at most."""
    found = report.get(section)
    sections: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    order = sorted(sections, key=lambda name: -(_number(sections, name, "avoided_s") or 0.0))
    return [_worth(names.get(name, name), sections[name]) for name in order[:MAX_WORTH]]


def _worth(name: str, section: Mapping[str, Any]) -> Worth:
    return Worth(
        name,
        _count(_number(section, "total")),
        _percent(_number(section, "hit_ratio")),
        _percent(_number(section, "token_hit_ratio")),
        _count(_number(section, "by_outcome", "join") or 0.0),
        seconds(_number(section, "avoided_s")),
        seconds(_number(section, "age", "mean_s")),
        _quantiles(section, "age"),
        _count(_number(section, "stored", "entries")),
        size(_number(section, "stored", "size_bytes")),
    )


def next_page(params: ArticleParams, cursor: str | None) -> str | None:
    """The link to the next page, with the same filter."""
    if cursor is None:
        return None
    kept = params.model_dump(exclude_none=True, exclude_defaults=True)
    return "/?" + urlencode({**kept, "cursor": cursor})


def of_last_day(digests: Sequence[DailyDigest]) -> list[DailyDigest]:
    """The daily digests of the newest date that has one with a text; of that date those that failed, too. They come newest first."""
    date = next((digest.date for digest in digests if digest.state == "done"), digests[0].date if digests else "")
    return [digest for digest in digests if digest.date == date and digest.state != "pending"]


def published(params: ArticleParams) -> str:
    """The query string under which the published feeds hold the same articles; "" for all."""
    kept = params.model_dump(include={"feed", "tag", "text"}, exclude_none=True)
    return "?" + urlencode(kept) if kept else ""


def counts(feed: Feed) -> str:
    """`3 done, 1 pending`."""
    return ", ".join(f"{num} {state}" for state, num in feed.num_articles if num)


def feed_name(feed: Feed) -> str:
    """Its title, or its address until it has one."""
    return feed.title.strip() or masked(feed.url)


def safe_link(url: str | None) -> str | None:
    """The address where following it is harmless, else `None`: only http and https, without control characters; never with a password."""
    if not url or not re.match(r"https?://", url, re.IGNORECASE) or re.search(r"[\x00-\x20\x7f]", url):
        return None
    try:
        return masked(url, "") if urlsplit(url).hostname else None
    except ValueError:
        return None


def paragraphs(text: str) -> list[str]:
    """The parts of a plain text between empty lines."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def iso(time: float | None) -> str:
    """For a `datetime` attribute."""
    moment = _utc(time)
    return moment.isoformat(timespec="seconds") if moment else ""


def day(time: float | None) -> str:
    """`1 Nov 2026`."""
    moment = _utc(time)
    return f"{moment.day} {moment:%b %Y}" if moment else ""


def minute(time: float | None) -> str:
    """`1 Nov 2026, 12:30 UTC`."""
    moment = _utc(time)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC" if moment else ""


def seconds(value: float | None) -> str:
    """A length of time to about three digits."""
    if value is None:
        return ""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600), (math.inf, "days", 86_400)):
        if abs(value) < limit:
            return f"{_digits(value / size)} {unit}"
    return ""


def size(num_bytes: float | None) -> str:
    """A number of bytes to about three digits, in powers of a thousand."""
    if num_bytes is None:
        return ""
    for limit, unit, scale in ((1e3, "B", 1.0), (1e6, "kB", 1e3), (1e9, "MB", 1e6), (math.inf, "GB", 1e9)):
        if num_bytes < limit:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{_digits(num_bytes / scale)} {unit}"
    return ""


def usd(value: float | None) -> str:
    """Dollars to two digits below a cent, because one answer costs far less than that."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 0.01:
        return f"${value:,.2f}"
    return f"${value:.{1 - math.floor(math.log10(abs(value)))}f}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _number(report: Mapping[str, Any], *path: str) -> float | None:
    value: Any = report
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _outcomes(report: Mapping[str, Any]) -> str:
    names = (*REUSED, "miss", "bypass")
    found = [(name, _number(report, "requests", "by_outcome", name)) for name in names]
    return ", ".join(f"{num:,.0f} {name}" for name, num in found if num)


def _quantiles(report: Mapping[str, Any], *path: str) -> str:
    """`p50 2.00 min, p95 3.10 h`."""
    found = [(name, seconds(_number(report, *path, f"{name}_s"))) for name in ("p50", "p95")]
    return ", ".join(f"{name} {value}" for name, value in found if value)


def _held(report: Mapping[str, Any]) -> str:
    evicted = _number(report, "cache", "evictions")
    parts = [size(_number(report, "requests", "stored", "size_bytes")), f"{evicted:,.0f} evicted" if evicted else ""]
    return ", ".join(part for part in parts if part)


def _utc(time: float | None) -> dt.datetime | None:
    try:
        return None if time is None else dt.datetime.fromtimestamp(time, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return None  # a feed may claim any year
