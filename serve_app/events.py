"""What webhooks tell: an event as a JSON text, and who wants to hear of it. Pure.

The body is that of Standard Webhooks (https://www.standardwebhooks.com): `type`, `timestamp`, `data`. Tests: tests/fast/test_events.py.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serve_app.feed_url import masked
from serve_app.messages_feeds import Article, DailyDigest, Feed
from serve_app.settings_webhooks import EventName, Webhook

NOT_TOLD = ("text", "text_hash", "next_try_at", "summary")  # of an article: the text is long and somebody else's, the rest is ours
TAGGED: tuple[EventName, ...] = ("article.done", "digest.daily")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a Unix time. `feed`: id and addresses of the feed it is about; `tags` of the article or digest."""

    type: EventName
    at: float
    data: Mapping[str, Any]
    feed: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def body(self) -> str:
        """The message as it is sent, and signed, at every try."""
        return body(self.type, self.at, self.data)


def body(type: str, at: float, data: Mapping[str, Any]) -> str:
    """A message of Standard Webhooks."""
    when = dt.datetime.fromtimestamp(at, dt.UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": type, "timestamp": when, "data": data}, separators=(",", ":"), ensure_ascii=False)


def article_event(article: Article, feed: Feed, at: float) -> Event:
    """An article has its summary, or will not get one without a person's help."""
    told = {name: value for name, value in asdict(article).items() if name not in NOT_TOLD}
    told["summary"] = article.summary and {
        name: value for name, value in asdict(article.summary).items() if name not in ("prompt_template", "text_hash")
    }
    data = {"object": "article", **told, "feed": {"id": feed.id, "title": feed.title, "url": masked(feed.url)}}
    type: EventName = "article.done" if article.state == "done" else "article.failed"
    return Event(type, at, data, _names(feed), tags_of(article))


def feed_event(feed: Feed, at: float) -> Event:
    """A feed has failed several times in a row, or is gone."""
    names = ("id", "title", "state", "num_errors", "last_status", "last_error", "last_success_at", "next_check_at")
    data = {"object": "feed", **{name: getattr(feed, name) for name in names}, "url": masked(feed.url)}
    return Event("feed.gone" if feed.state == "gone" else "feed.failing", at, data, _names(feed))


def digest_event(digest: DailyDigest) -> Event:
    """A day's digest of a tag is written."""
    told = {name: value for name, value in asdict(digest).items() if name != "next_try_at"}
    return Event("digest.daily", digest.updated_at, {"object": "digest", **told}, tags=(digest.tag,))


def tags_of(article: Article) -> tuple[str, ...]:
    """Those of its summary."""
    return article.summary.tags if article.summary else ()


def is_wanted(webhook: Webhook, event: Event) -> bool:
    """Whether this receiver hears of it: `feeds` says nothing about daily digests, `tags` nothing about feeds and articles that failed,
    which have none."""
    if event.type not in webhook.events:
        return False
    if webhook.feeds and event.feed and not set(webhook.feeds) & set(event.feed):
        return False
    return not webhook.tags or event.type not in TAGGED or not _folded(webhook.tags).isdisjoint(_folded(event.tags))


def _folded(tags: Sequence[str]) -> frozenset[str]:
    return frozenset(tag.casefold() for tag in tags)


def listeners(webhooks: Sequence[Webhook], event: Event) -> tuple[Webhook, ...]:
    """Those who hear of it."""
    return tuple(webhook for webhook in webhooks if is_wanted(webhook, event))


def _names(feed: Feed) -> tuple[str, ...]:
    return (feed.id, feed.url, *((feed.moved_to,) if feed.moved_to else ()))
