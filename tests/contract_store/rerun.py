"""Chosen articles become pending and keep the summary that they have; tags find articles, whatever happens to their summaries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.messages_feeds import ArticleQuery, ArticleState, Rerun
from serve_app.store import rerun as module
from serve_app.store.article_pages import PageStore
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.rerun import Chosen, RerunStore
from tests.contract_store.makers import FEED, ME, article, check, summary, with_articles

NUM = 5


@pytest.fixture
def store(database: Database) -> ArticleStore:
    """Articles 0 to 4, summarised by prompts p0 to p4; the even ones have the tags Even and 2.0."""
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    with_articles(store, *(article(str(number), published_at=float(number), categories=("Ünïcode", "b")) for number in range(NUM)))
    for number in range(NUM):
        tags = ("Even", "2.0") if number % 2 == 0 else ()
        made = replace(summary(), prompt_version=f"p{number}", tags=tags)
        assert store.record_result(ME, article(str(number)).id, "h1", made)
    return store


def guids(store: ArticleStore, **values: object) -> list[str]:
    return sorted(one.guid for one in store.query(ArticleQuery(limit=100, **values)).articles)  # type: ignore[arg-type]


def test_articles_are_found_by_a_tag_in_any_case_until_they_have_others(store: ArticleStore) -> None:
    assert guids(store, tag="EVEN") == guids(store, tag="2.0") == ["0", "2", "4"]
    assert guids(store, tag="odd") == []
    store.record_result(ME, article("0").id, "h1", replace(summary(), tags=("New",)))
    assert (guids(store, tag="even"), guids(store, tag="new")) == (["2", "4"], ["0"])
    changed = article("2", text="another", text_hash="h2")
    store.record_check(ME, FEED, check(changed=(changed,)))
    assert guids(store, tag="even") == ["4"]
    store.sync_configured(ME, [], 2.0)
    store.remove_feed(FEED)
    assert guids(store, tag="even") == []


@pytest.mark.parametrize(
    ("rerun", "found"),
    [
        (Rerun(), "01234"),
        (Rerun(feed_id=FEED, since=3.0), "34"),
        (Rerun(feed_id="other"), ""),
        (Rerun(tag="EVEN", prompt_version_not="p2"), "04"),
        (Rerun(model_not="model"), ""),
        (Rerun(model_not="another"), "01234"),
        (Rerun(ids=(article("1").id, article("3").id, "unknown"), prompt_version_not="p1"), "3"),
        (Rerun(state="failed"), ""),
    ],
)
def test_all_that_is_asked_for_must_hold(
    store: ArticleStore, database: Database, monkeypatch: pytest.MonkeyPatch, rerun: Rerun, found: str
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    chosen = list(RerunStore(database).chosen(rerun))
    assert chosen == [Chosen(article(number).id, FEED, "text", f"p{number}", "model") for number in found]


def test_a_rerun_article_is_pending_and_shows_its_summary_until_there_is_another(store: ArticleStore, database: Database) -> None:
    before = store.article(article("1").id)
    assert RerunStore(database).start([before.id, "unknown"], Rerun(), 50.0) == 1
    assert store.article(before.id) == replace(before, state="pending", updated_at=50.0)
    assert [one.guid for one in store.pending_articles(60.0, 9)] == ["1"]
    assert RerunStore(database).start([before.id], Rerun(), 51.0) == 0
    store.record_result(ME, before.id, "h1", summary("The new one."))
    assert store.article(before.id).summary == summary("The new one.")


@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_an_article_without_summary_is_of_another_prompt_and_begins_again(
    store: ArticleStore, database: Database, state: ArticleState
) -> None:
    store.record_check(ME, FEED, check(article("new", text_hash="h9", state=state, attempts=5, reason="why")))
    rerun = Rerun(state=state, prompt_version_not="p1", model_not="model")
    (chosen,) = RerunStore(database).chosen(rerun)
    assert (chosen.prompt_version, chosen.model) == ("", "")
    RerunStore(database).start([chosen.id], rerun, 50.0)
    found = store.article(chosen.id)
    assert (found.state, found.attempts, found.reason) == ("pending", 0, None)


def test_articles_of_paused_feeds_are_left_alone(store: ArticleStore, database: Database) -> None:
    store.sync_configured(ME, [], 2.0)
    assert list(RerunStore(database).chosen(Rerun())) == []


@pytest.mark.parametrize(
    ("version", "is_of_it"), [("2", True), ("2+a1b2c3", True), ("2:German", True), ("2+a1:German", True), ("22", False)]
)
def test_a_feeds_own_template_or_language_is_of_the_same_version(
    store: ArticleStore, database: Database, version: str, is_of_it: bool
) -> None:
    one = article("0").id
    store.record_result(ME, one, "h1", replace(summary(), prompt_version=version))
    assert [chosen.id for chosen in RerunStore(database).chosen(Rerun(ids=(one,), prompt_version_not="2"))] == [one] * (not is_of_it)


def test_the_text_of_an_article_is_that_of_its_page_where_there_is_one(store: ArticleStore, database: Database) -> None:
    one = article("page", text_hash="h8")
    store.record_check(ME, FEED, replace(check(one), pages=frozenset([one.id])))
    rerun = Rerun(state="skipped", ids=(one.id,))
    assert PageStore(database).decide(ME, one, "page", "All of it.", skip="too short")
    assert [chosen.text for chosen in RerunStore(database).chosen(rerun)] == ["All of it."]
    changed = article("page", text="the feed's", text_hash="h9", state="skipped")
    store.record_check(ME, FEED, check(changed=(changed,)))
    assert [chosen.text for chosen in RerunStore(database).chosen(rerun)] == [store.article(one.id).best_text]
