"""Which day a daily digest is about, which articles go into it, and how it is asked for. Pure.

A day ends at `at` by the settings' clock and has 23 or 25 hours where clocks are changed; an article belongs to the day in which its
summary was stored, so each comes up once. Tests: tests/fast/test_feeds_daily.py.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve_app.events import tags_of
from serve_app.feeds.prompt import clean, cut, harmless
from serve_app.feeds.text import num_words, one_line
from serve_app.messages import FinishReason, Message
from serve_app.messages_feeds import Article
from serve_app.settings_daily import ALL, PLACES, DailySettings

MAX_WORDS_EACH = 60  # of one article's title and summary: a few long ones must not push the rest out
EVERYTHING = "all subjects"  # what {tag} is for ALL


@dataclass(frozen=True, slots=True)
class Day:
    """The day before `until`, which is `at` on `date`: Unix seconds, `since` included and `until` not."""

    date: str
    since: float
    until: float


def last_day(now: float, settings: DailySettings) -> Day:
    """The last day that is over. Those before it are not made up for after a downtime: nobody reads a week of them at once."""
    today = dt.datetime.fromtimestamp(now, settings.zone()).date()
    dates = [today - dt.timedelta(days=days) for days in range(4)]
    date, until = next((date, end) for date in dates if (end := _ends(date, settings)) <= now)
    # A date that a country skipped, when it changed sides of the date line, ends together with the next one.
    return Day(date.isoformat(), next(end for date in dates if (end := _ends(date, settings)) < until), until)


def chosen(articles: Sequence[Article], tag: str, max_words: int) -> tuple[Article, ...]:
    """Those with the tag, in their order, as many as have room; of the same text in several feeds one."""
    found: list[Article] = []
    seen: set[str] = set()
    room = max_words
    for article in articles:
        if article.summary is None or article.text_hash in seen or not _has(article, tag):
            continue
        room -= num_words(_line(article, max_words))
        if room < 0 and found:
            break
        seen.add(article.text_hash)
        found.append(article)
    return tuple(found)


def question(articles: Sequence[Article], tag: str, date: str, settings: DailySettings) -> tuple[Message, ...]:
    """The conversation that asks for one digest."""
    # Plain lines: the embedded model copies the marks of a list instead of writing a paragraph.
    lines = "\n".join(harmless(_line(article, settings.max_words), settings.template) for article in articles)
    filled = {"{articles}": lines, "{tag}": EVERYTHING if tag == ALL else one_line(tag), "{date}": date}
    return (Message("user", "".join(filled.get(piece, piece) for piece in _pieces(settings.template))),)


def paragraph(text: str, reason: FinishReason) -> str:
    """The answer as one paragraph; empty where it is none."""
    line = clean(text, reason)
    return line if any(char.isalnum() for char in line) else ""


def _ends(date: dt.date, settings: DailySettings) -> float:
    return dt.datetime.combine(date, dt.time(*settings.hour_minute), settings.zone()).timestamp()


def _has(article: Article, tag: str) -> bool:
    return tag == ALL or tag.casefold() in (own.casefold() for own in tags_of(article))


def _line(article: Article, max_words: int) -> str:
    assert article.summary is not None
    title = one_line(article.title).rstrip(".:")
    told = one_line(article.summary.text)
    return cut(f"{title}: {told}" if title else told, min(MAX_WORDS_EACH, max_words))


def _pieces(template: str) -> Iterator[str]:
    yield from re.split("(" + "|".join(re.escape(place) for place in PLACES) + ")", template)
