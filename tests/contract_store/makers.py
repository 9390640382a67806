"""Small makers of what the article store takes, with everything that a test does not care about filled in."""

from __future__ import annotations

from dataclasses import replace

from serve_app.feeds.decide import article_id
from serve_app.messages_feeds import Article, Summary
from serve_app.settings_feeds import FeedEntry
from serve_app.store.articles import ArticleStore
from serve_app.store.feed_list import feed_id
from serve_app.store.records import FeedCheck

URL, OTHER = "https://feed.test/rss", "https://other.test/rss"
FEED, ME = feed_id(URL), "me"


def article(guid: str, **values: object) -> Article:
    base = Article(article_id(FEED, guid), FEED, guid, "https://x.test/", f"About {guid}", "Ann", None, 10.0, 10.0, "text", "h1", "pending")
    return replace(base, **values)  # type: ignore[arg-type]


def check(*new: Article, changed: tuple[Article, ...] = (), at: float = 20.0) -> FeedCheck:
    return FeedCheck(at, 200, at + 3600, '"tag"', "then", "Feed title", new, changed)


def summary(text: str = "A summary.", text_hash: str = "h1") -> Summary:
    return Summary(text, "model", "1", "{title}{text}", text_hash, "miss", 50, 9, 2.0, 0.002, 30.0)


def with_articles(store: ArticleStore, *articles: Article) -> None:
    store.sync_configured(ME, [FeedEntry(url=URL)], 1.0)
    store.record_check(ME, FEED, check(*articles))
