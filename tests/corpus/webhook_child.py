"""Feeds in a process of its own, with a feed and a webhook, until it is killed.

Standard input: `{"database_url", "folder", "feed", "webhook", "replica"}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from serve_app.feeds import webhooks
from serve_app.feeds.service import FeedsService
from serve_app.messages import Answer, Ask
from serve_app.settings import AppSettings, ModelSettings
from tests.fast.fakes_feeds import answer

webhooks.CLAIM_S = 0.2  # a minute in earnest, for which the next start would wait here


async def ask(_ask: Ask) -> Answer:
    return answer()


async def main(told: dict[str, Any]) -> None:
    app = AppSettings(data_dir=told["folder"], database_url=told["database_url"], model=ModelSettings(id="tiny"))
    service = FeedsService(app, told["replica"], ask)
    hook = {"url": told["webhook"], "secret": "whsec_" + "A" * 32}
    options = {"allow_private_hosts": ["127.0.0.1"], "min_words": 3, "lease_s": 0.3, "max_in_flight": 4}
    await service.tune({"feeds": [{"url": told["feed"]}], "webhooks": [hook], **options})
    await asyncio.Event().wait()


asyncio.run(main(json.loads(sys.stdin.read())))
