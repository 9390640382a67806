"""One Feeds replica and one AnswerCache replica in a process that may be killed: the real code over a real database, and a fake model.

Standard input: `{"folder", "database", "feeds", "num_articles"}`. Ends with 0 as soon as all those articles are summarised. The model
writes each generation that it begins into `generations.txt`, and that line is on the disk before the first token is out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import sys
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from serve_app.cache.shard import AnswerShard
from serve_app.errors import GenerationFailed, Overloaded
from serve_app.feeds import fulltext
from serve_app.feeds.service import FeedsService
from serve_app.messages import Chunk, Failed, Finish, Generate, Item, Usage
from serve_app.settings import AppSettings, ModelSettings
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database

STUBBORN, BUSY = "A stubborn article", "A busy article"  # titles: greedy answers to the one fail, the first answer to the other is refused
LEASE_S = 0.4
TIMEOUT_S = 0.75


def user_config(feeds: list[str]) -> dict[str, Any]:
    """As quick as settings may be: what a killed check leaves behind is due again 2 * TIMEOUT_S after it began."""
    times = {"poll_interval_s": 1, "min_interval_s": 1, "max_interval_s": 4, "retry_base_s": 0.05, "lease_s": LEASE_S}
    times |= {"connect_timeout_s": TIMEOUT_S, "total_timeout_s": TIMEOUT_S}
    return {
        "feeds": [{"url": url, "full_text": True} for url in feeds],
        "full_text_max_words": 10,
        "allow_private_hosts": ["127.0.0.1", "localhost"],
        "min_words": 3,
        "max_in_flight": 2,
        "follow_rate": False,
        **times,
    }


def digest(question: str) -> str:
    """What the model answers to a question, and to no other one."""
    return f"Summary {hashlib.sha256(question.encode()).hexdigest()[:16]} of a release."


class LoggingModel:
    """Answers in two pieces, with a step between them in which others run."""

    def __init__(self, log: pathlib.Path) -> None:
        self._log = log

    async def __call__(self, request: Generate) -> AsyncGenerator[Item, None]:
        question = request.messages[-1].content
        is_first = digest(question) not in (self._log.read_text() if self._log.exists() else "")
        self._note(digest(question))
        if STUBBORN in question and request.sampling.greedy:
            yield Failed(GenerationFailed("the model broke"))
            return
        if BUSY in question and is_first:
            yield Failed(Overloaded("too much to do", retry_after_s=0.05))
            return
        first, second = digest(question).split(" of ")
        yield Chunk(first, 1)
        await asyncio.sleep(0)
        yield Chunk(f" of {second}", 1)
        yield Finish("stop", Usage(9, 2), 0.1, 0.1, 0.0, 0.0, 0.1, batch_size=1, cost_usd=0.0)

    def _note(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{line}\n")
            log.flush()
            os.fsync(log.fileno())


async def main(folder: str, database: str, feeds: list[str], num_articles: int) -> None:
    fulltext.RETRY_S = 2 * TIMEOUT_S  # as soon as a check that was killed
    app = AppSettings(data_dir=folder, database_url=database, model=ModelSettings(id="tiny"))

    async def fingerprint() -> str:
        return "f" * 64

    async def promote(request_id: str) -> None:
        pass

    shard = AnswerShard(app, LoggingModel(pathlib.Path(folder, "generations.txt")), fingerprint, promote)
    shard.start()
    service = FeedsService(app, uuid.uuid4().hex, shard.answers.whole)
    await service.tune(user_config(feeds))
    own = Database(app.database)
    store = ArticleStore(own)
    while store.counts()["done"] < num_articles:  # noqa: ASYNC110 (what is looked at is rows, which set no event)
        await asyncio.sleep(0.02)
    own.close()
    await service.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await shard.stop()


if __name__ == "__main__":
    logging.disable()
    asyncio.run(main(**json.loads(sys.stdin.read())))
