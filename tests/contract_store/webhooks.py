"""The outbox: an event is there with what it tells of, once per receiver, until it was taken or given up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.errors import Conflict, NotFound
from serve_app.messages_feeds import Article
from serve_app.settings_webhooks import Webhook
from serve_app.store.articles import FAILING_AFTER, LEASE, ArticleStore, LeaseLost
from serve_app.store.database import Database
from serve_app.store.records import FeedFailure
from serve_app.store.webhooks import KEEP_S, Delivery, Health, Outbox, WebhookStore
from tests.contract_store.makers import FEED, ME, URL, article, summary, with_articles

SECRET = "whsec_" + "A" * 32
ALL = ("article.done", "article.failed", "feed.failing", "feed.gone", "digest.daily")


def webhook(url: str = "https://me.test/in/token", **values: Any) -> Webhook:
    return Webhook(**{"url": url, "secret": SECRET, "events": ALL, **values})


class World:
    """An article store with an outbox for these webhooks, and the sender's side of it."""

    def __init__(self, database: Database, *webhooks: Webhook) -> None:
        self.outbox, self.webhooks = Outbox(), webhooks
        self.outbox.set(webhooks)
        self.articles, self.store = ArticleStore(database, self.outbox), WebhookStore(database)
        assert self.articles.lease(LEASE, ME, 0.0, 1e9)
        self.store.sync(ME, webhooks, 1.0)
        with_articles(self.articles, article("a"), article("b"))

    def sent(self, one: Webhook, now: float = 1e6) -> list[dict[str, Any]]:
        """Bodies of what is due."""
        return [json.loads(delivery.body) for delivery in self.store.due(one.id, now, 100)]

    def one(self, number: int = 0) -> Delivery:
        return self.store.due(self.webhooks[number].id, 1e6, 100)[0]

    def health(self) -> Health:
        return self.store.health()[0]

    def finish(self, one: Article) -> None:
        assert self.articles.record_result(ME, one.id, "h1", summary())


@pytest.fixture
def world(database: Database) -> World:
    return World(database, webhook())


def test_a_summary_and_the_message_about_it_are_stored_together(world: World) -> None:
    assert world.sent(world.webhooks[0]) == []
    world.finish(article("a"))
    (told,) = world.sent(world.webhooks[0])
    data = told["data"]
    assert (told["type"], told["timestamp"]) == ("article.done", "1970-01-01T00:00:30Z")
    assert (data["id"], data["title"], data["state"], data["summary"]["text"]) == (article("a").id, "About a", "done", "A summary.")
    assert data["feed"] == {"id": FEED, "title": "Feed title", "url": URL}
    assert "text" not in data


def test_what_is_not_stored_is_not_told(world: World) -> None:
    assert not world.articles.record_result(ME, article("a").id, "another text", summary())
    with pytest.raises(LeaseLost):
        world.articles.record_result("another", article("a").id, "h1", summary())
    world.articles.record_article_failure(ME, article("a").id, "h1", "looping", 1, 99.0, 5.0)
    assert world.sent(world.webhooks[0]) == []


def test_an_event_whose_row_cannot_be_written_undoes_what_it_tells_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(world.outbox, "add", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            world.finish(article("a"))
    assert world.articles.article(article("a").id).state == "pending"


def test_failures_are_told_when_they_are_final(world: World) -> None:
    world.articles.record_article_failure(ME, article("a").id, "h1", "looping", 5, None, 5.0)
    for number in range(FAILING_AFTER + 2):
        world.articles.record_failure(ME, FEED, FeedFailure(float(number), "no such name", 9.0))
    world.articles.record_failure(ME, FEED, FeedFailure(9.0, "gone", 9.0, 410, is_gone=True))
    told = world.sent(world.webhooks[0])
    assert sorted(one["type"] for one in told) == ["article.failed", "feed.failing", "feed.gone"]
    assert {one["data"]["reason"] for one in told if one["type"] == "article.failed"} == {"looping"}
    assert {one["data"]["num_errors"] for one in told if one["type"] == "feed.failing"} == {FAILING_AFTER}


def test_each_receiver_hears_what_it_wants(database: Database) -> None:
    mine, others = webhook(feeds=(URL,)), webhook("https://other.test/", feeds=("https://another.test/rss",))
    world = World(database, mine, others, webhook("https://third.test/", events=("feed.gone",)))
    world.finish(article("a"))
    assert [len(world.sent(one)) for one in world.webhooks] == [1, 0, 0]


def test_a_message_stays_under_its_id_until_it_was_taken(world: World) -> None:
    world.finish(article("a"))
    first = world.one()
    assert world.store.claim(ME, first.id, 60.0)
    assert world.store.due(first.webhook_id, 59.0, 9) == ()
    assert [one.id for one in world.store.due(first.webhook_id, 60.0, 9)] == [first.id]
    assert world.store.due(first.webhook_id, 60.0, 9, [first.id]) == ()
    world.store.failed(ME, first, "it answered with status 500", 500, 90.0, 61.0)
    again = world.one()
    assert (again.id, again.body, again.attempts, again.last_status) == (first.id, first.body, 1, 500)
    assert (world.health().num_errors, world.health().pending, world.health().last_failure_at) == (1, 1, 61.0)
    world.store.delivered(ME, again, 204, 95.0)
    health = world.health()
    assert (health.num_delivered, health.num_errors, health.pending, health.last_status, health.last_success_at) == (1, 0, 0, 204, 95.0)
    assert not world.store.claim(ME, first.id, 200.0)


def test_dead_letters_wait_for_a_person(world: World) -> None:
    world.finish(article("a"))
    world.finish(article("b"))
    first, second = world.store.due(world.webhooks[0].id, 1e6, 9)
    for one in (first, second):
        world.store.failed(ME, one, "no answer", None, None, 70.0)
    assert world.sent(world.webhooks[0]) == []
    assert {one.id for one in world.store.dead(first.webhook_id, 9)} == {first.id, second.id}
    assert len(world.store.dead(first.webhook_id, 1)) == 1
    assert world.store.redeliver(first.webhook_id, [first.id, "unknown"], 80.0) == 1
    assert (world.one().id, world.one().attempts) == (first.id, 0)
    assert world.store.redeliver(first.webhook_id, None, 80.0) == 1
    assert (world.health().pending, world.health().dead) == (2, 0)


def test_a_disabled_one_gets_nothing_until_its_settings_change(world: World) -> None:
    world.finish(article("a"))
    own = world.webhooks[0]
    world.store.disable(ME, own.id, "gone (410)")
    world.finish(article("b"))
    health = world.health()
    assert (health.state, health.reason, health.pending, health.dead) == ("disabled", "gone (410)", 0, 1)
    with pytest.raises(Conflict, match="change its settings"):
        world.store.redeliver(own.id, None, 80.0)
    with pytest.raises(Conflict, match="change its settings"):
        world.store.test(own.id, 80.0)
    world.store.sync(ME, [own], 90.0)
    assert world.health().state == "disabled"
    world.store.sync(ME, [webhook(events=("article.done",))], 91.0)
    assert (world.health().state, world.health().events, world.health().dead) == ("active", ("article.done",), 1)


def test_one_that_leaves_the_configuration_is_kept_with_what_waits_for_it_for_a_while(world: World) -> None:
    world.finish(article("a"))
    world.store.sync(ME, [], 40.0)
    assert (world.health().state, world.health().pending) == ("removed", 1)
    assert world.sent(world.webhooks[0]) == []
    world.store.sync(ME, world.webhooks, 41.0)
    assert len(world.sent(world.webhooks[0])) == 1
    world.store.sync(ME, [], 31.0 + KEEP_S)
    assert world.store.health() == ()


def test_a_test_message_goes_to_one_receiver(world: World) -> None:
    message_id = world.store.test(world.webhooks[0].id, 7.0)
    assert (world.one().id, json.loads(world.one().body)["type"]) == (message_id, "webhook.test")
    for call in (
        lambda: world.store.test("nope", 7.0),
        lambda: world.store.dead("nope", 9),
        lambda: world.store.redeliver("nope", None, 7.0),
    ):
        with pytest.raises(NotFound, match="no webhook 'nope'"):
            call()


def test_without_the_lease_nothing_is_sent_twice(world: World) -> None:
    world.finish(article("a"))
    one = world.one()
    for call in (
        lambda: world.store.claim("other", one.id, 60.0),
        lambda: world.store.delivered("other", one, 200, 5.0),
        lambda: world.store.failed("other", one, "why", 500, None, 5.0),
        lambda: world.store.disable("other", one.webhook_id, "why"),
        lambda: world.store.sync("other", [], 5.0),
    ):
        with pytest.raises(LeaseLost):
            call()
    assert world.one() == one


def test_no_secret_is_stored(world: World, database: Database) -> None:
    world.finish(article("a"))
    with database.read() as connection:
        for table in ("webhooks", "deliveries"):
            rows = str(connection.exec_driver_sql(f"SELECT * FROM {table}").all())
            assert SECRET not in rows
            assert "/in/token" not in rows
