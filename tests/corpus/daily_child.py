"""Daily digests in a process of its own, which kills itself right before or behind its so manyth commit, or once they are all over.

Standard input: `{"database_url", "kill", "now"}`, where `kill` is `before:2`, `behind:1` or empty. Ends with 0 where it was not killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from sqlalchemy import Connection, event

from serve_app.feeds.daily_writer import DailyWriter
from serve_app.messages import Answer, Message
from serve_app.messages_feeds import DailyDigest, DailyQuery
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.settings_webhooks import Webhook
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.daily import DailyStore
from serve_app.store.database import Database
from serve_app.store.webhooks import Outbox
from tests.fast.fakes_feeds import answer, until

HOOK = Webhook(url="https://me.test/", secret="whsec_" + "A" * 32, events=("digest.daily",))
TAGS = ("ai", "law")


class Commits:
    """Counts the write transactions from now on, and ends this process at the one that was meant."""

    def __init__(self, database: Database, kill: str) -> None:
        self._where, _, number = kill.partition(":")
        self._left = int(number or 0)
        self._last: Any = self  # no connection
        event.listen(database.engine, "commit", self._commits)
        event.listen(database.engine.pool, "checkin", self._given_back)

    def _commits(self, connection: Connection) -> None:
        self._left -= 1
        if self._left == 0:
            self._last = connection.connection.dbapi_connection
            if self._where == "before":
                os.kill(os.getpid(), signal.SIGKILL)

    def _given_back(self, connection: Any, _record: Any) -> None:
        if self._where == "behind" and connection is self._last:  # others read meanwhile
            os.kill(os.getpid(), signal.SIGKILL)


async def ask(digest: DailyDigest, messages: tuple[Message, ...], settings: FeedsSettings) -> Answer:
    sys.stdout.write(f"{digest.tag}\n")
    sys.stdout.flush()
    return answer()


async def main(told: dict[str, Any]) -> None:
    database = Database(told["database_url"])
    outbox = Outbox()
    outbox.set((HOOK,))
    assert ArticleStore(database).lease(LEASE, "me", told["now"], 1e9)
    store = DailyStore(database, outbox)
    settings = FeedsSettings.load({"digest": {"tags": TAGS}})
    writer = DailyWriter(store, ask, Metrics(), "me", lambda: float(told["now"]), settings, idle_wait_s=0.01)
    Commits(database, told["kill"])
    running = asyncio.create_task(writer.run())
    await until(lambda: [digest.state for digest in store.query(DailyQuery()).digests] == ["done"] * len(TAGS))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.read())))
