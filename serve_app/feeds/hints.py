"""What a document says about when to look again and who will tell: ttl, syndication periods, skipped hours and days, a WebSub hub. Pure.

Tests: tests/fast/test_feeds_hints.py.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PERIODS_S = {"hourly": 3600.0, "daily": 86_400.0, "weekly": 604_800.0, "monthly": 2_592_000.0, "yearly": 31_536_000.0}
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
HEAD = 100_000  # bytes in which the channel's own elements are looked for
SKIPPED = re.compile(rb"<skip(Hours|Days)\s*>([^\x00]{0,2000}?)</skip\1\s*>", re.IGNORECASE)
VALUE = re.compile(rb"<(?:hour|day)\s*>\s*([A-Za-z0-9]{1,10})\s*</", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Skips:
    """Hours and days (Monday is 0) of GMT in which nothing new comes: https://www.rssboard.org/skip-hours-days."""

    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()

    def write(self) -> str | None:
        """As a database keeps it: `h0 h13 d6`; None for nothing."""
        return " ".join([f"h{hour}" for hour in sorted(self.hours)] + [f"d{day}" for day in sorted(self.days)]) or None

    @classmethod
    def read(cls, text: str | None) -> Skips:
        """What `write` wrote."""
        parts = (text or "").split()
        of = {kind: frozenset(int(part[1:]) for part in parts if part[0] == kind) for kind in "hd"}
        return cls(of["h"], of["d"])

    def next_open(self, at: float) -> float:
        """The first moment from `at` (Unix seconds) on that is not skipped, at the start of its hour; `at` where all are."""
        if not self.hours and not self.days:
            return at
        hour = at - at % 3600
        for number in range(24 * 7 + 1):
            moment = datetime.datetime.fromtimestamp(hour + number * 3600, datetime.UTC)
            if moment.hour not in self.hours and moment.weekday() not in self.days:
                return max(at, moment.timestamp())
        return at


def asked_wait_s(feed: Mapping[str, Any]) -> float | None:
    """How long the feed asks to be left alone, in seconds: the longer of `ttl` (minutes) and `sy:updatePeriod / sy:updateFrequency`
    (http://web.resource.org/rss/1.0/modules/syndication/)."""
    ttl_s, period_s = _number(feed.get("ttl")) * 60.0, PERIODS_S.get(str(feed.get("sy_updateperiod") or "").strip().lower(), 0.0)
    return max(ttl_s, period_s / (_number(feed.get("sy_updatefrequency")) or 1)) or None


def skips(body: bytes) -> Skips:
    """From the document, because feedparser keeps only the last hour and day."""
    found: dict[bytes, list[str]] = {b"hours": [], b"days": []}
    for kind, inner in SKIPPED.findall(body[:HEAD]):
        found[kind.lower()] += [value.decode().lower() for value in VALUE.findall(inner)]
    hours = (int(hour) % 24 for hour in found[b"hours"] if hour.isdigit() and int(hour) <= 24)  # some count from 1 to 24
    return Skips(frozenset(hours), frozenset(DAYS.index(day) for day in found[b"days"] if day in DAYS))


def hub_and_topic(links: Iterable[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """The first hub that a feed's links name, and the feed's own address."""
    found: dict[str, str] = {}
    for link in links:
        found.setdefault(str(link.get("rel") or ""), str(link.get("href") or "").strip())
    return found.get("hub") or None, found.get("self") or None


def _number(value: object) -> int:
    text = str(value or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
