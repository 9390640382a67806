"""Subscriptions as rows: one per feed, gone with it, and changed only by who knows the present one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.settings_feeds import FeedEntry
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.websub import Subscription, SubscriptionStore
from tests.contract_store.makers import FEED, ME, URL

ONE = Subscription(FEED, "https://hub.test/", "https://feed.test/", "token", "secret", "wanted", 5.0)


@pytest.fixture
def articles(database: Database) -> ArticleStore:
    articles = ArticleStore(database)
    assert articles.lease(LEASE, ME, 0.0, 1e9)
    articles.sync_configured(ME, [FeedEntry(url=URL)], 1.0)
    return articles


@pytest.fixture
def store(articles: ArticleStore, database: Database) -> SubscriptionStore:
    return SubscriptionStore(database)


def test_a_subscription_is_due_changed_and_replaced(store: SubscriptionStore) -> None:
    store.put(ONE)
    assert (store.get(FEED), store.due(4.0), store.due(5.0)) == (ONE, (), (ONE,))
    assert store.change(ONE, state="active", lease_until=99.0, next_ask_at=80.0)
    assert store.get(FEED) == replace(ONE, state="active", lease_until=99.0, next_ask_at=80.0)
    other = replace(ONE, hub="https://other.test/", token="another")
    store.put(other)
    assert not store.change(ONE, state="refused"), "a late answer of the hub before"
    assert store.get(FEED) == other
    store.remove(FEED)
    assert store.get(FEED) is None


def test_it_goes_with_its_feed_and_rests_while_that_is_paused(store: SubscriptionStore, articles: ArticleStore) -> None:
    store.put(ONE)
    articles.sync_configured(ME, [], 2.0)
    assert store.due(9.0) == ()
    articles.remove_feed(FEED)
    assert store.get(FEED) is None
    store.put(ONE)
    assert store.get(FEED) is None, "of a feed that was removed meanwhile nothing is stored"
