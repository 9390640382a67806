"""Whose own page is to be read. Pure. Tests: tests/fast/test_feeds_fulltext.py."""

from __future__ import annotations

from serve_app.feeds.text import num_words
from serve_app.messages_feeds import Article, Feed
from serve_app.settings_feeds import FeedsSettings


def wants_page(feed: Feed, article: Article, settings: FeedsSettings) -> bool:
    """Whether this article's page is to be read: its feed says so, and carries no long text itself."""
    return switched_on(feed, settings) and bool(article.link) and num_words(article.text) < settings.full_text_max_words


def switched_on(feed: Feed, settings: FeedsSettings) -> bool:
    """The feed's own word, or that for all feeds."""
    own = feed.options.get("full_text")
    return settings.full_text if own is None else bool(own)
