"""Summaries written again after a prompt or a model changed, and what that would cost. Tests: tests/fast/test_feeds_rerun.py.

The preview is what the next calls would be: one for each article, or its parts' and their summaries' under map-reduce, at the averages that
the ledger has of this model's work for feeds. Blocks; knows no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from serve_app.feeds.prompt import for_feed, num_calls
from serve_app.messages import REUSED
from serve_app.messages_feeds import Expected, Rerun, RerunPreview
from serve_app.settings_feeds import FeedsSettings, SummaryPrompt
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger, LedgerRow
from serve_app.store.rerun import RerunStore


class Reruns:
    """Over one database, for one model."""

    def __init__(self, database: Database, model: str) -> None:
        self._chosen = RerunStore(database)
        self._articles = ArticleStore(database)
        self._ledger = Ledger(database)
        self._model = model

    def run(self, rerun: Rerun, settings: FeedsSettings, now: float, *, dry_run: bool) -> RerunPreview:
        """What this rerun is; unless `dry_run`, its articles are pending afterwards.

        Raises:
            NotFound: there is no such feed.
        """
        if rerun.feed_id is not None:
            self._articles.feed(rerun.feed_id)
        prompts: dict[str, SummaryPrompt] = {}
        ids: list[str] = []
        calls = num_same = 0
        for article in self._chosen.chosen(rerun):
            if article.feed_id not in prompts:
                prompts[article.feed_id] = for_feed(settings.summary, self._articles.options_of(article.feed_id))
            prompt = prompts[article.feed_id]
            ids.append(article.id)
            calls += num_calls(article.text, prompt)
            num_same += (article.prompt_version, article.model) == (prompt.version, self._model)
        preview = RerunPreview(dry_run, len(ids), calls, num_same, expected(self._ledger.rows(), self._model, calls))
        return preview if dry_run else replace(preview, num_articles=self._chosen.start(ids, rerun, now))


def expected(rows: Iterable[LedgerRow], model: str, num_calls: int) -> Expected | None:
    """What so many calls take if none is in the cache; None before the model has done any work for feeds."""
    past = LedgerRow(0, model, "", "", "")
    for row in rows:
        if row.model == model and row.feed_id and row.outcome not in REUSED and row.ending in ("stop", "length"):
            past.add(row)
    if not past.requests:
        return None
    each = num_calls / past.requests
    return Expected(round(past.prompt_tokens * each), round(past.completion_tokens * each), past.compute_s * each, past.cost_usd * each)
