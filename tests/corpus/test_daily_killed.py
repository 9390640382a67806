"""kill -9 right before and right behind each commit of the daily digests: one digest and one message per tag, whatever came before."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import replace

import pytest

from serve_app.messages_feeds import DailyQuery
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.daily import DailyStore
from serve_app.store.database import Database
from serve_app.store.webhooks import WebhookStore
from tests.contract_store.makers import ME, article, summary, with_articles
from tests.corpus.daily_child import HOOK, TAGS

NOW = 1_800_014_400.0  # 2027-01-15 12:00 UTC


async def live(database_url: str, kill: str) -> tuple[int | None, list[str]]:
    """One life of the writer: how it ended, and for which tags the model was asked."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.corpus.daily_child", stdin=pipe, stdout=pipe)
    told, _ = await asyncio.wait_for(child.communicate(json.dumps({"database_url": database_url, "kill": kill, "now": NOW}).encode()), 60)
    return child.returncode, told.decode().split()


# Each life commits the wanted rows first, then each digest that is missing, together with its message.
@pytest.mark.parametrize(("where", "kills", "times_asked"), [("before", (1, 2, 3), 2), ("behind", (1, 2, 2), 1)])
async def test_one_digest_and_one_message_per_tag_whatever_was_killed(
    where: str, kills: tuple[int, ...], times_asked: int, database: Database, database_url: str
) -> None:
    articles, store, webhooks = ArticleStore(database), DailyStore(database), WebhookStore(database)
    assert articles.lease(LEASE, ME, 0.0, 1e12)
    webhooks.sync(ME, (HOOK,), 1.0)
    with_articles(articles, article("a"))
    articles.record_result(ME, article("a").id, "h1", replace(summary(), created_at=NOW - 43_200, tags=TAGS))
    asked: Counter[str] = Counter()
    for number in kills:
        code, tags = await live(database_url, f"{where}:{number}")
        asked.update(tags)
        assert code == -9
    code, tags = await live(database_url, "")
    asked.update(tags)
    assert code == 0
    assert [(digest.tag, digest.state) for digest in store.query(DailyQuery()).digests] == [(tag, "done") for tag in TAGS]
    told = [json.loads(delivery.body)["data"]["tag"] for delivery in webhooks.due(HOOK.id, NOW + 1, 9)]
    assert sorted(told) == sorted(TAGS)
    assert asked == dict.fromkeys(TAGS, times_asked), "only what was in flight, and that comes out of the answer cache"
