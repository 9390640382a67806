"""kill -9 while summaries are stored and messages sent: every article is told of, always under the same id, and little comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

from aiohttp import web

from serve_app.feeds.webhooks import PER_WEBHOOK
from serve_app.messages_feeds import ArticleQuery
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database
from serve_app.store.webhooks import WebhookStore
from tests.fast.fakes_feeds import FakeFeed, until

NUM_ARTICLES = 30
KILLS = (1, 2, 7, 8, 12)  # at the so manyth message of a life: before it is answered, so that nobody knows whether it was taken


class World:
    """A feed and a receiver, which kills who sends to it when a test says so."""

    def __init__(self) -> None:
        self.feed = FakeFeed()
        self.told: dict[str, list[str]] = defaultdict(list)  # of each article, the ids of the messages about it
        self.num_told = 0
        self.kill_at: int | None = None
        self.child: asyncio.subprocess.Process | None = None

    async def serve_feed(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.feed.body(), content_type="application/rss+xml")

    async def receive(self, request: web.Request) -> web.Response:
        told = await request.json()
        self.told[told["data"]["guid"]].append(request.headers["webhook-id"])
        self.num_told += 1
        if self.num_told == self.kill_at and self.child is not None:
            self.child.kill()
        return web.Response()

    @contextlib.asynccontextmanager
    async def running(self, database_url: str, folder: pathlib.Path, port: int, replica: str) -> AsyncIterator[asyncio.subprocess.Process]:
        self.num_told = 0
        here = f"http://127.0.0.1:{port}"
        told = {"database_url": database_url, "folder": str(folder), "feed": f"{here}/feed", "webhook": f"{here}/in", "replica": replica}
        pipe = asyncio.subprocess.PIPE
        child = self.child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.corpus.webhook_child", stdin=pipe)
        assert child.stdin is not None
        child.stdin.write(json.dumps(told).encode())
        child.stdin.close()
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def test_no_kill_loses_a_message(database: Database, database_url: str, tmp_path: pathlib.Path) -> None:
    world = World()
    for number in range(NUM_ARTICLES):
        world.feed.entry(f"a{number}")
    app = web.Application()
    app.router.add_get("/feed", world.serve_feed)
    app.router.add_post("/in", world.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = int(runner.addresses[0][1])
        for number, kill_at in enumerate(KILLS):
            world.kill_at = kill_at
            async with world.running(database_url, tmp_path, port, f"life {number}") as child:
                assert await asyncio.wait_for(child.wait(), 60) == -9
        world.kill_at = None
        store, webhooks = ArticleStore(database), WebhookStore(database)
        async with world.running(database_url, tmp_path, port, "the last"):
            await until(lambda: store.counts()["done"] == NUM_ARTICLES and [one.pending for one in webhooks.health()] == [0], 60)
    finally:
        await runner.cleanup()
    articles = store.query(ArticleQuery(limit=100)).articles
    assert set(world.told) == {article.guid for article in articles}
    assert {guid: len(set(ids)) for guid, ids in world.told.items() if len(set(ids)) > 1} == {}, "one message per article"
    again = sum(len(ids) - 1 for ids in world.told.values())
    assert len(KILLS) <= again <= len(KILLS) * PER_WEBHOOK
    assert [(one.dead, one.num_errors) for one in webhooks.health()] == [(0, 0)]
