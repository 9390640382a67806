"""What a rerun would cost: its calls, what of them may be stored already, and the averages of the work until now."""

from __future__ import annotations

import pytest

from serve_app.errors import NotFound
from serve_app.feeds.rerun import Reruns, expected
from serve_app.messages_feeds import Expected, Rerun
from serve_app.settings_feeds import FeedsSettings, SummaryPrompt
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.ledger import LedgerRow
from tests.contract_store.makers import ME, article, summary, with_articles

SETTINGS = FeedsSettings(summary=SummaryPrompt(version="1", max_words=20, long_articles="map_reduce"))


@pytest.fixture
def store(database: Database) -> ArticleStore:
    store = ArticleStore(database)
    assert store.lease(LEASE, ME, 0.0, 1e9)
    with_articles(store, article("short"), article("long", text="One sentence of five words. " * 11))
    for guid in ("short", "long"):
        assert store.record_result(ME, article(guid).id, "h1", summary())
    return store


def test_a_preview_counts_calls_and_changes_nothing(store: ArticleStore, database: Database) -> None:
    preview = Reruns(database, "model").run(Rerun(), SETTINGS, 50.0, dry_run=True)
    assert (preview.num_articles, preview.num_calls, preview.num_same, preview.expected) == (2, 1 + 3 + 1, 2, None)
    assert store.counts()["pending"] == 0
    cut = SETTINGS.model_copy(update={"summary": SummaryPrompt(version="2", max_words=20)})
    preview = Reruns(database, "model").run(Rerun(), cut, 50.0, dry_run=True)
    assert (preview.num_calls, preview.num_same) == (2, 0)


def test_a_rerun_makes_its_articles_pending(store: ArticleStore, database: Database) -> None:
    preview = Reruns(database, "model").run(Rerun(ids=(article("short").id,)), SETTINGS, 50.0, dry_run=False)
    assert (preview.dry_run, preview.num_articles) == (False, 1)
    assert store.counts() == {"pending": 1, "done": 1, "failed": 0, "skipped": 0}


def test_a_feed_that_is_none_is_named(store: ArticleStore, database: Database) -> None:
    with pytest.raises(NotFound, match="there is no feed 'nope'"):
        Reruns(database, "model").run(Rerun("nope"), SETTINGS, 50.0, dry_run=True)


def test_what_is_expected_is_the_average_of_this_models_generations_for_feeds() -> None:
    def row(model: str, feed: str, outcome: str, ending: str) -> LedgerRow:
        one = LedgerRow(0, model, feed, outcome, ending)
        one.requests, one.prompt_tokens, one.completion_tokens, one.compute_s, one.cost_usd = 2, 200, 40, 3.0, 0.004
        return one

    counted = [row("model", "f", "miss", "stop"), row("model", "g", "miss", "length")]
    others = [row("model", "", "miss", "stop"), row("other", "f", "miss", "stop"), row("model", "f", "hit", "stop")]
    assert expected([*counted, *others, row("model", "f", "miss", "error")], "model", 10) == Expected(1000, 200, 15.0, 0.02)
    assert expected(others, "model", 10) is None
