"""What a fetched feed changes, and when to look again. Touches nothing: data and a time in, data out.

Tests: tests/fast/test_feeds_decide.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from serve_app.feeds.parse import Entry, ParsedFeed
from serve_app.feeds.text import num_words
from serve_app.messages import Article, Feed
from serve_app.settings import FeedsSettings
from serve_app.store.records import KnownArticle

JITTER = 0.25  # of the interval at most, always later: feeds added together must not be checked together for ever
MAX_RETRY_S = 3600.0
TOO_OLD = "older than the newest"
CHARS_PER_WORD = 6  # in English with the space; in Thai or Khmer, which write none, a whole text may be one "word"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to store: articles never seen, and stored ones with another text, both oldest first; and how many edits have to wait."""

    new: tuple[Article, ...] = ()
    changed: tuple[Article, ...] = ()
    num_waiting: int = 0


@dataclass(frozen=True, slots=True)
class Hints:
    """What the feed and its server said about the next check, in seconds."""

    ttl_s: float | None = None
    max_age_s: float | None = None
    retry_after_s: float | None = None


def article_id(feed_id: str, guid: str) -> str:
    """The first 16 hex digits of SHA-256 over feed id and guid."""
    return hashlib.sha256(f"{feed_id}\n{guid}".encode()).hexdigest()[:16]


def decide(feed: Feed, known: Mapping[str, KnownArticle], parsed: ParsedFeed, now: float, settings: FeedsSettings) -> Decision:
    """Compare a feed with what is `known` of it, by guid.

    An entry is changed when its normalised text is; a new link or date alone costs no second summary. One check makes work of at most
    `max_new_per_check` entries, the newest: older new ones are kept as skipped, older edits keep the text and summary that they have
    until a later check finds room.
    """
    entries = _oldest_first(parsed.entries)
    limit = settings.max_new_per_check
    new = [_article(feed, entry, now, now, settings) for entry in entries if entry.guid not in known]
    too_old = _beyond(new, limit)
    reason = f"{TOO_OLD} {limit} of one check (max_new_per_check)"
    new = [_skipped(article, reason) if article.guid in too_old else article for article in new]
    changed = [
        _changed(feed, entry, known[entry.guid], now, settings)
        for entry in entries
        if entry.guid in known and entry.text_hash != known[entry.guid].text_hash
    ]
    room = limit - sum(article.state == "pending" for article in new)
    later = _beyond(changed, room)
    return Decision(tuple(new), tuple(article for article in changed if article.guid not in later), len(later))


def next_check(hints: Hints, num_errors: int, now: float, settings: FeedsSettings, jitter: float) -> float:
    """When to look again. Of `num_errors` in a row the first waits the ordinary interval and each further one doubles it; there always is
    a next time. `jitter` from 0 to 1 is drawn by the caller."""
    wait_s = min(settings.poll_interval_s * 2.0 ** min(max(num_errors - 1, 0), 30), settings.max_interval_s)
    wait_s = max(wait_s, hints.ttl_s or 0, hints.max_age_s or 0, hints.retry_after_s or 0)
    return now + min(wait_s * (1 + JITTER * jitter), settings.max_interval_s)


def next_try(attempts: int, now: float, settings: FeedsSettings) -> float | None:
    """When to ask for this article again after `attempts` failed tries; None where there were enough."""
    if attempts >= settings.max_attempts:
        return None
    return now + min(settings.retry_base_s * 2.0 ** min(max(attempts - 1, 0), 30), MAX_RETRY_S)


def _oldest_first(entries: Iterable[Entry]) -> list[Entry]:
    """By date where the feed gives one. Feeds list the newest first, so an entry without a date takes the place its neighbour has."""
    ordered: list[tuple[float, Entry]] = []
    date = float("-inf")
    for entry in reversed(list(entries)):
        date = entry.published_at if entry.published_at is not None else date
        ordered.append((date, entry))
    return [entry for _date, entry in sorted(ordered, key=lambda pair: pair[0])]


def _beyond(articles: list[Article], limit: int) -> set[str]:
    """The guids of those that would be work beyond the newest `limit`."""
    work = [article.guid for article in articles if article.state == "pending"]
    return set(work[: max(0, len(work) - limit)])


def _changed(feed: Feed, entry: Entry, known: KnownArticle, now: float, settings: FeedsSettings) -> Article:
    article = _article(feed, entry, known.first_seen_at, now, settings)
    if known.state == "skipped" and (known.reason or "").startswith(TOO_OLD):
        return _skipped(article, known.reason or TOO_OLD)  # an edit does not make it one of the newest
    return article


def _article(feed: Feed, entry: Entry, first_seen_at: float, now: float, settings: FeedsSettings) -> Article:
    article = Article(
        id=article_id(feed.id, entry.guid),
        feed_id=feed.id,
        guid=entry.guid,
        link=entry.link,
        title=entry.title,
        author=entry.author,
        published_at=entry.published_at,
        first_seen_at=first_seen_at,
        updated_at=now,
        text=entry.text,
        text_hash=entry.text_hash,
        state="pending",
    )
    words = num_words(entry.text)
    if words >= settings.min_words or len(entry.text) >= settings.min_words * CHARS_PER_WORD:
        return article
    return _skipped(article, f"only {words} word{'' if words == 1 else 's'}")


def _skipped(article: Article, reason: str) -> Article:
    return replace(article, state="skipped", reason=reason)
