"""Daily digests as rows: one per date and tag, told together with what they are; once over, only a failed one is asked for again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from serve_app.errors import BadRequest, Conflict, NotFound
from serve_app.events import tags_of
from serve_app.feeds.daily import choose
from serve_app.messages_feeds import DailyDigest, DailyQuery
from serve_app.settings_webhooks import Webhook
from serve_app.store.articles import LEASE, ArticleStore, LeaseLost
from serve_app.store.daily import TOO_LATE, DailyStore
from serve_app.store.database import Database
from serve_app.store.webhooks import Outbox, WebhookStore
from tests.contract_store.makers import ME, article, check, summary, with_articles

MONDAY, TUESDAY = "2026-11-23", "2026-11-24"
HOOK = Webhook(url="https://me.test/", secret="whsec_" + "A" * 32, events=("digest.daily",), tags=("ai",))


def written(tag: str = "ai", date: str = TUESDAY) -> DailyDigest:
    return DailyDigest(date, tag, "done", "What a day.", ("a1", "a2"), None, 0, None, "m", 90, 30, 2.5, 0.001, 50.0)


@pytest.fixture
def articles(database: Database) -> ArticleStore:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    return store


@pytest.fixture
def store(database: Database, articles: ArticleStore) -> DailyStore:
    outbox = Outbox()
    outbox.set((HOOK,))
    WebhookStore(database).sync(ME, (HOOK,), 1.0)
    return DailyStore(database, outbox)


def test_a_digest_is_wanted_once_per_date_and_tag_and_over_when_it_is_done(store: DailyStore) -> None:
    store.begin(ME, TUESDAY, ("ai", "*"), 10.0)
    assert store.due(TUESDAY, ("ai", "*"), 10.0) == (
        DailyDigest(TUESDAY, "*", updated_at=10.0),
        DailyDigest(TUESDAY, "ai", updated_at=10.0),
    )
    assert store.record(ME, written())
    assert not store.record(ME, replace(written(), text="Another one.")), "two of one day and tag"
    store.begin(ME, TUESDAY, ("ai", "*"), 20.0)
    assert [digest.tag for digest in store.due(TUESDAY, ("ai", "*"), 20.0)] == ["*"]
    assert store.query(DailyQuery(tag="ai")).digests == (written(),)


def test_it_and_the_message_about_it_are_stored_together_and_once(store: DailyStore, database: Database) -> None:
    store.begin(ME, TUESDAY, ("ai", "law"), 10.0)
    for digest in (written(), written(), written("law")):
        store.record(ME, digest)
    (delivery,) = WebhookStore(database).due(HOOK.id, 1e6, 10)
    told = json.loads(delivery.body)
    assert (told["type"], told["timestamp"]) == ("digest.daily", "1970-01-01T00:00:50Z")
    assert told["data"] == {
        "object": "digest",
        "date": TUESDAY,
        "tag": "ai",
        "state": "done",
        "text": "What a day.",
        "article_ids": ["a1", "a2"],
        "reason": None,
        "attempts": 0,
        "model": "m",
        "prompt_tokens": 90,
        "completion_tokens": 30,
        "compute_s": 2.5,
        "cost_usd": 0.001,
        "updated_at": 50.0,
    }


def test_a_message_that_cannot_be_stored_leaves_the_digest_to_be_written_again(store: DailyStore, database: Database) -> None:
    store.begin(ME, TUESDAY, ("ai",), 10.0)
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE deliveries RENAME TO away")
    with pytest.raises(Exception, match="deliveries"):
        store.record(ME, written())
    assert [digest.state for digest in store.due(TUESDAY, ("ai",), 10.0)] == ["pending"]


def test_a_failed_try_waits_for_its_time_and_is_told_nobody(store: DailyStore, database: Database) -> None:
    store.begin(ME, TUESDAY, ("ai",), 10.0)
    again = DailyDigest(TUESDAY, "ai", reason="full", attempts=1, next_try_at=40.0, updated_at=10.0)
    assert store.record(ME, again)
    assert (store.due(TUESDAY, ("ai",), 39.0), store.due(TUESDAY, ("ai",), 40.0)) == ((), (again,))
    failed = replace(again, state="failed", attempts=5, next_try_at=None)
    assert store.record(ME, failed)
    assert (store.due(TUESDAY, ("ai",), 1e6), store.query(DailyQuery()).digests) == ((), (failed,))
    assert WebhookStore(database).due(HOOK.id, 1e6, 10) == ()


def test_what_is_not_written_when_the_next_day_is_over_has_failed(store: DailyStore) -> None:
    store.begin(ME, MONDAY, ("ai", "law", "*"), 10.0)
    store.record(ME, DailyDigest(MONDAY, "law", reason="full", attempts=1, next_try_at=40.0))
    store.record(ME, written("*", MONDAY))
    store.begin(ME, TUESDAY, ("ai",), 90.0)
    assert store.query(DailyQuery()).digests == (
        DailyDigest(TUESDAY, "ai", updated_at=90.0),
        written("*", MONDAY),
        DailyDigest(MONDAY, "ai", "failed", reason=TOO_LATE, updated_at=90.0),
        DailyDigest(MONDAY, "law", "failed", reason="full", attempts=1, updated_at=90.0),
    )


def test_a_tag_that_nobody_wants_any_more_is_forgotten_while_it_waits(store: DailyStore) -> None:
    store.begin(ME, TUESDAY, ("ai", "law"), 10.0)
    store.record(ME, written())
    store.begin(ME, TUESDAY, (), 20.0)
    assert store.query(DailyQuery()).digests == (written(),)


def test_articles_belong_to_the_time_in_which_their_summary_was_stored(store: DailyStore, articles: ArticleStore) -> None:
    with_articles(articles, *(article(guid, published_at=at) for guid, at in (("a", 1.0), ("b", 3.0), ("c", 2.0), ("d", 4.0))))
    for guid, at in (("a", 99.0), ("b", 100.0), ("c", 199.9), ("d", 200.0)):
        articles.record_result(ME, article(guid).id, "h1", replace(summary(guid), created_at=at))
    assert [found.guid for found in store.summarised(100.0, 200.0, 10)] == ["b", "c"]
    assert [found.guid for found in store.summarised(0.0, 1e6, 3)] == ["d", "b", "c"]
    assert {found.text for found in store.summarised(0.0, 1e6, 9)} == {""}
    articles.record_check(ME, article("b").feed_id, check(changed=(article("b", text_hash="h2"),)))
    assert [found.guid for found in store.summarised(100.0, 200.0, 10)] == ["c"], "an edited article waits for its new summary"


def test_pages_join_up_and_days_without_articles_are_left_out(store: DailyStore) -> None:
    for date in (MONDAY, TUESDAY):
        store.begin(ME, date, ("ai", "*", "law"), 10.0)
        for digest in (written("*", date), written("ai", date), DailyDigest(date, "law", "empty")):
            store.record(ME, digest)
    seen, cursor = [], None
    while True:
        page = store.query(DailyQuery(limit=3, cursor=cursor))
        seen += [(digest.date, digest.tag) for digest in page.digests]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [(TUESDAY, "*"), (TUESDAY, "ai"), (MONDAY, "*"), (MONDAY, "ai")]
    assert store.query(DailyQuery(state="pending")).digests == ()
    assert len(store.query(DailyQuery("ai", state="done")).digests) == 2
    for wrong in ("x", "é", "W10", "WyJhIiwgMV0"):
        with pytest.raises(BadRequest, match="start again without it"):
            store.query(DailyQuery(cursor=wrong))


def test_only_the_holder_of_the_lease_writes(store: DailyStore) -> None:
    store.begin(ME, TUESDAY, ("ai",), 10.0)
    with pytest.raises(LeaseLost):
        store.record("another", written())
    with pytest.raises(LeaseLost):
        store.begin("another", TUESDAY, ("law",), 10.0)
    assert store.query(DailyQuery()).digests == (DailyDigest(TUESDAY, "ai", updated_at=10.0),)


def test_the_tags_of_a_summary_choose_its_digest_and_its_webhook(store: DailyStore, database: Database) -> None:
    outbox = Outbox()
    hook = Webhook(url="https://me.test/articles", secret=HOOK.secret, events=("article.done",), tags=("ai",))
    outbox.set((hook,))
    WebhookStore(database).sync(ME, (HOOK, hook), 1.0)
    told = ArticleStore(database, outbox)
    with_articles(told, article("a"), article("b", text_hash="h2"))
    told.record_result(ME, article("a").id, "h1", replace(summary(), tags=("law",)))
    told.record_result(ME, article("b").id, "h2", replace(summary(text_hash="h2"), tags=("AI", "law")))
    told.record_result(ME, article("a").id, "h1", replace(summary(), tags=("ai",)))
    found = store.summarised(0.0, 1e6, 10)
    assert {found.guid: tags_of(found) for found in found} == {"a": ("ai",), "b": ("AI", "law")}
    assert [found.guid for found in choose(found, "law", 400).articles] == ["b"]
    bodies = [json.loads(delivery.body)["data"] for delivery in WebhookStore(database).due(hook.id, 1e6, 10)]
    assert sorted((body["guid"], tuple(body["summary"]["tags"])) for body in bodies) == [("a", ("ai",)), ("b", ("AI", "law"))]


def test_a_person_has_the_last_days_failed_digest_written_again(store: DailyStore) -> None:
    store.begin(ME, MONDAY, ("ai",), 10.0)
    store.begin(ME, TUESDAY, ("ai", "law", "tax"), 20.0)
    failed = DailyDigest(TUESDAY, "ai", "failed", reason="it looped", attempts=3, updated_at=30.0)
    for digest in (failed, written("law"), DailyDigest(TUESDAY, "tax", "empty")):
        store.record(ME, digest)
    assert store.due(TUESDAY, ("ai",), 40.0) == ()
    again = store.retry(TUESDAY, "ai", 40.0)
    assert again == replace(failed, state="pending", reason=None, updated_at=40.0), "the tries so far stay counted"
    assert store.due(TUESDAY, ("ai",), 40.0) == (again,)
    for tag, words in (("ai", "this digest is pending"), ("law", "this digest is done")):
        with pytest.raises(Conflict, match=words):
            store.retry(TUESDAY, tag, 50.0)
    with pytest.raises(Conflict, match="only the last day's"):
        store.retry(MONDAY, "ai", 50.0)
    for date, tag in ((TUESDAY, "tax"), (TUESDAY, "nobody's"), ("2020-01-01", "ai")):
        with pytest.raises(NotFound, match=f"no digest of {date} for {tag}"):
            store.retry(date, tag, 50.0)
    assert store.record(ME, written("ai"))
    assert [digest.state for digest in store.query(DailyQuery("ai")).digests] == ["done", "failed"]
