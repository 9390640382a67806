"""Which day a daily digest is about, which articles go into it, and how it is asked for. Pure.

A day ends at `at` by the settings' clock and has 23 or 25 hours where clocks are changed; an article belongs to the day in which its
summary was stored, so each comes up once. Tests: tests/fast/test_feeds_daily.py.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.events import tags_of
from serve_app.feeds.digest import parts
from serve_app.feeds.prompt import clean, cut, harmless
from serve_app.feeds.text import num_words, one_line
from serve_app.messages import FinishReason, Message
from serve_app.messages_feeds import Article
from serve_app.settings_daily import ALL, PLACES, DailySettings

MAX_WORDS_EACH = 60  # of one article's title and summary: a few long ones must not push the rest out
PIECES = re.compile("(" + "|".join(re.escape(place) for place in PLACES) + ")")
EVERYTHING = "all subjects"  # what {tag} is for ALL


@dataclass(frozen=True, slots=True)
class Choice:
    """The articles of a digest, and the line that tells of each."""

    articles: tuple[Article, ...]
    lines: tuple[str, ...]


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


def choose(articles: Sequence[Article], tag: str, max_words: int) -> Choice:
    """Those with the tag, in their order, with their summaries if that is at most `max_words`, else as many as have room with their
    headlines. Of the same text in several feeds one."""
    first: dict[str, Article] = {}
    for article in articles:
        if article.summary is not None and _has(article, tag):
            first.setdefault(article.text_hash, article)
    found = tuple(first.values())
    whole = tuple(_line(article, max_words, short=False) for article in found)
    if sum(map(num_words, whole)) <= max_words:
        return Choice(found, whole)
    lines: list[str] = []
    for article in found:
        line = _line(article, max_words, short=True)
        max_words -= num_words(line)
        if max_words < 0 and lines:
            break
        lines.append(line)
    return Choice(found[: len(lines)], tuple(lines))


def question(choice: Choice, tag: str, date: str, settings: DailySettings) -> tuple[Message, ...]:
    """The conversation that asks for one digest."""
    # Plain lines: the embedded model copies the marks of a list instead of writing a paragraph.
    lines = "\n".join(harmless(line, settings.template) for line in choice.lines)
    filled = {"{articles}": lines, "{tag}": EVERYTHING if tag == ALL else one_line(tag), "{date}": date}
    return (Message("user", "".join(filled.get(piece, piece) for piece in PIECES.split(settings.template))),)


def paragraph(text: str, reason: FinishReason) -> str:
    """An accepted answer as one paragraph."""
    return clean(parts(text).summary, reason)


def _ends(date: dt.date, settings: DailySettings) -> float:
    return dt.datetime.combine(date, dt.time(*settings.hour_minute), settings.zone()).timestamp()


def _has(article: Article, tag: str) -> bool:
    return tag == ALL or tag.casefold() in (own.casefold() for own in tags_of(article))


def _line(article: Article, max_words: int, *, short: bool) -> str:
    assert article.summary is not None
    if short and article.summary.headline:  # a sentence of its own; with titles before them the embedded model wrote a list of titles
        return cut(one_line(article.summary.headline), min(MAX_WORDS_EACH, max_words))
    title, told = one_line(article.title).rstrip(".:"), one_line(article.summary.text)
    return cut(f"{title}: {told}" if title else told, min(MAX_WORDS_EACH, max_words))
