"""What a fetched feed changes, and when to look again. Touches nothing: data and a time in, data out.

Tests: tests/fast/test_feeds_decide.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from serve_app.feed_rules import Rules
from serve_app.feeds.hints import Skips
from serve_app.feeds.parse import Entry, ParsedFeed
from serve_app.feeds.text import num_words
from serve_app.feeds.wanted import wants_page
from serve_app.messages_feeds import Article, Feed
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.records import KnownArticle, Rename, Rhythm

JITTER = 0.25  # of the interval at most, always later: feeds added together must not be checked together for ever
RATE_ENTRIES = 20  # the newest, of which the rate is taken
RATE_SHARE = 0.1  # of the usual time between two entries: an entry is found with so much delay at most
MAX_RETRY_S = 3600.0
TOO_OLD = "older than the newest"
CHARS_PER_WORD = 6  # in English with the space; in Thai or Khmer, which write none, a whole text may be one "word"
SAME_DAY_S = 86_400.0
NO_RHYTHM = Rhythm()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to store: articles never seen, and stored ones with another text, both oldest first; stored ones that are found under another
    guid or link; and how many edits have to wait."""

    new: tuple[Article, ...] = ()
    changed: tuple[Article, ...] = ()
    renamed: tuple[Rename, ...] = ()
    num_waiting: int = 0


@dataclass(frozen=True, slots=True)
class Hints:
    """What the feed and its server said about the next check, in seconds; `rhythm` as it was read last."""

    max_age_s: float | None = None
    retry_after_s: float | None = None
    rhythm: Rhythm = NO_RHYTHM
    is_pushed: bool = False  # a hub tells when something is new


def article_id(feed_id: str, guid: str) -> str:
    """The first 16 hex digits of SHA-256 over feed id and guid."""
    return hashlib.sha256(f"{feed_id}\n{guid}".encode()).hexdigest()[:16]


def decide(
    feed: Feed, known: Mapping[str, KnownArticle], parsed: ParsedFeed, now: float, settings: FeedsSettings, taken: Collection[str] = ()
) -> Decision:
    """Compare a feed with what is `known` of it, by guid: what has one of its guids or one of its texts.

    An entry is changed when its normalised text is; a new link or date alone costs no second summary. An entry whose text is that of a
    stored article that is not in the feed any more, of the same day where both have dates, is that article under another guid. One check
    makes work of at most `max_new_per_check` entries, the newest: older new ones are kept as skipped, older edits keep the text and
    summary that they have until a later check finds room. `taken`: ids that a renamed article has kept.
    """
    entries, limit, rules = _oldest_first(parsed.entries), settings.max_new_per_check, _rules(feed, settings)
    renamed = _renamed(entries, known, settings)
    gone_by = {rename.guid for rename in renamed}
    new = [_article(feed, entry, now, now, settings, rules) for entry in entries if entry.guid not in known and entry.guid not in gone_by]
    new = [
        replace(article, id=article_id(feed.id, f"{article.guid}\n{article.text_hash}")) if article.id in taken else article
        for article in new
    ]
    too_old = _beyond(new, limit)
    reason = f"{TOO_OLD} {limit} of one check (max_new_per_check)"
    new = [_skipped(article, reason) if article.guid in too_old else article for article in new]
    changed = [
        _changed(feed, entry, known[entry.guid], now, settings, rules)
        for entry in entries
        if entry.guid in known and entry.text_hash != known[entry.guid].text_hash
    ]
    room = limit - sum(article.state == "pending" for article in new)
    later = _beyond(changed, room)
    return Decision(tuple(new), tuple(article for article in changed if article.guid not in later), tuple(renamed), len(later))


def rhythm(parsed: ParsedFeed, now: float) -> Rhythm:
    """How often this feed changes: the mean time between the dates of its newest entries, those of the future left out."""
    dates = sorted({entry.published_at for entry in parsed.entries if entry.published_at is not None and entry.published_at <= now})
    newest = dates[-RATE_ENTRIES:]
    gap_s = (newest[-1] - newest[0]) / (len(newest) - 1) if len(newest) > 1 else None
    return Rhythm(parsed.ttl_s, parsed.skips, gap_s, newest[-1] if newest else None)


def next_check(hints: Hints, num_errors: int, now: float, settings: FeedsSettings, jitter: float) -> float:
    """When to look again. Of `num_errors` in a row the first waits the ordinary interval and each further one doubles it; there always is
    a next time. `jitter` from 0 to 1 is drawn by the caller."""
    own_s = _own_interval(hints, now, settings) if num_errors == 0 else settings.poll_interval_s
    wait_s = min(own_s * 2.0 ** min(max(num_errors - 1, 0), 30), settings.max_interval_s)
    wait_s = max(wait_s, hints.rhythm.asked_wait_s or 0, hints.max_age_s or 0, hints.retry_after_s or 0)
    at = Skips.read(hints.rhythm.skips).next_open(now + wait_s * (1 + JITTER * jitter))
    return min(at, now + settings.max_interval_s)


def _own_interval(hints: Hints, now: float, settings: FeedsSettings) -> float:
    if hints.is_pushed:
        return settings.max_interval_s
    gap_s, newest_at = hints.rhythm.entry_gap_s, hints.rhythm.newest_at
    if not settings.follow_rate or gap_s is None or newest_at is None:
        return settings.poll_interval_s
    usual_s = max(gap_s, now - newest_at)  # a feed that has fallen silent slows down with its silence
    return min(max(RATE_SHARE * usual_s, settings.min_interval_s), settings.max_interval_s)


def next_try(attempts: int, now: float, settings: FeedsSettings) -> float | None:
    """When to ask for this article again after `attempts` failed tries; None where there were enough."""
    if attempts >= settings.max_attempts:
        return None
    return now + min(settings.retry_base_s * 2.0 ** min(max(attempts - 1, 0), 30), MAX_RETRY_S)


def _renamed(entries: Sequence[Entry], known: Mapping[str, KnownArticle], settings: FeedsSettings) -> list[Rename]:
    present = {entry.guid for entry in entries}
    gone = {article.text_hash: article for guid, article in known.items() if guid not in present}
    renamed: list[Rename] = []
    for entry in entries:
        before = known.get(entry.guid)
        if before is not None:
            if entry.link and entry.link != before.link and entry.text_hash == before.text_hash:
                renamed.append(Rename(before.id, entry.guid, entry.link))
        elif is_long_enough(entry.text, settings) and _of_one_day(entry, gone.get(entry.text_hash)):
            before = gone.pop(entry.text_hash)
            renamed.append(Rename(before.id, entry.guid, entry.link or before.link))
    return renamed


def _of_one_day(entry: Entry, article: KnownArticle | None) -> bool:
    if article is None:
        return False
    return entry.published_at is None or article.published_at is None or abs(entry.published_at - article.published_at) <= SAME_DAY_S


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


def _changed(feed: Feed, entry: Entry, known: KnownArticle, now: float, settings: FeedsSettings, rules: Rules) -> Article:
    article = _article(feed, entry, known.first_seen_at, now, settings, rules)
    article = replace(article, id=known.id or article.id)  # a renamed article has the id of its first guid
    if known.state == "skipped" and (known.reason or "").startswith(TOO_OLD):
        return _skipped(article, known.reason or TOO_OLD)  # an edit does not make it one of the newest
    return article


def _article(feed: Feed, entry: Entry, first_seen_at: float, now: float, settings: FeedsSettings, rules: Rules) -> Article:
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
        categories=entry.tags,
    )
    what = {"title": entry.title, "text": entry.text, "link": entry.link, "author": entry.author, "tag": entry.tags}
    if reason := rules.refusal(what):
        return _skipped(article, reason)
    if is_long_enough(entry.text, settings) or wants_page(feed, article, settings):
        return article
    words = num_words(entry.text)
    return _skipped(article, f"only {words} word{'' if words == 1 else 's'}")


def _rules(feed: Feed, settings: FeedsSettings) -> Rules:
    own = feed.options
    return Rules((settings.keep, own.get("keep", ())), (*settings.block, *own.get("block", ())))


def is_long_enough(text: str, settings: FeedsSettings) -> bool:
    """Whether a text is worth a summary."""
    return len(text) >= settings.min_words * CHARS_PER_WORD or num_words(text) >= settings.min_words


def _skipped(article: Article, reason: str) -> Article:
    return replace(article, state="skipped", reason=reason)
