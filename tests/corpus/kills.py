"""A feed site, and lives of kill_child.py on it: each may be killed at a fault point; between two lives the books are looked at.

`World.live` runs one life, `World.problems` says what a killed one has cost beyond what it may.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import sys
import time
from collections import Counter

from aiohttp import web
from sqlalchemy import func, select

from serve_app import faults
from serve_app.feeds.prompt import question
from serve_app.messages_feeds import Article, ArticleQuery
from serve_app.settings_feeds import SummaryPrompt
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database
from serve_app.store.schema import answers, results
from tests.corpus.kill_child import BUSY, STUBBORN, TIMEOUT_S, digest
from tests.fast.fakes_feeds import FakeFeed
from tests.fast.fakes_pages import web_page

MAX_IN_FLIGHT = 2
LIFE_S = 60.0  # a whole life takes some 3 s; on a machine that does much else, longer


class Site:
    """`/good` has three entries; `/late` two, one of them with its text on its page, and trouble when it is asked for the first time.
    `asked` keeps who came when."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self._feeds = {
            "/good": FakeFeed().entry("1").entry("2").entry("3", STUBBORN),
            "/late": FakeFeed().entry("4", text="Read more of it.").entry("5", BUSY),
        }

    async def __aenter__(self) -> Site:
        app = web.Application()
        app.router.add_get("/{path}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = int(self._runner.addresses[0][1])
        # Two host names, so that neither feed waits for the other's turn.
        self.urls = {f"http://127.0.0.1:{port}/good": "/good", f"http://localhost:{port}/late": "/late"}
        self._feeds["/late"].links = f"http://localhost:{port}/page-"
        self.num_entries = sum(len(feed.items) for feed in self._feeds.values())
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        is_first = request.path not in {path for path, _at in self.asked}
        self.asked.append((request.path, time.time()))
        if request.path == "/late" and is_first:
            return web.Response(status=503)
        if request.path == "/page-4":
            return web.Response(body=web_page(), content_type="text/html")
        if request.path not in self._feeds:
            return web.Response(status=404)
        return web.Response(body=self._feeds[request.path].body(), content_type="application/rss+xml")


class World:
    """A folder, a database and a site, over as many lives as it takes."""

    def __init__(self, folder: pathlib.Path, database_url: str, site: Site) -> None:
        self._folder, self._url, self._site = folder, database_url, site
        self._database = Database(database_url)
        self._store = ArticleStore(self._database)
        self._lost: Counter[str] = Counter()  # generations that were in flight at a kill, by what they would have said
        self._problems: list[str] = []

    def close(self) -> None:
        """Give the database back."""
        self._database.close()

    async def live(self, fault: str | None = None) -> bool:
        """One life, to its end or to this fault; True where it was killed."""
        given = {"folder": str(self._folder), "database": self._url, "feeds": list(self._site.urls), "num_articles": self._site.num_entries}
        environment = {name: value for name, value in os.environ.items() if name != faults.VARIABLE}
        environment |= {faults.VARIABLE: fault} if fault else {}
        due = {self._site.urls[feed.url]: feed.next_check_at for feed in self._store.feeds()}
        num_asked = len(self._site.asked)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.corpus.kill_child", stdin=pipe, env=environment)
        try:
            async with asyncio.timeout(LIFE_S):
                await child.communicate(json.dumps(given).encode())
        except TimeoutError:
            child.kill()
            await child.wait()
            self._problems.append(f"a life did not end: {sorted((a.title, a.state, a.reason) for a in self._articles())}")
            return False
        for path, at in self._site.asked[num_asked:]:
            if at < due.pop(path, 0.0):  # of each feed the first request of this life, against what the life before had stored
                self._problems.append(f"{path} was asked too early")
        if child.returncode == -signal.SIGKILL:
            self._note_lost()
            self._check_marks()
            return True
        if child.returncode:
            self._problems.append(f"a life ended with {child.returncode}")
        return False

    def problems(self) -> list[str]:
        """What is wrong when all is done."""
        articles = self._articles()
        found = list(self._problems)
        if sorted(article.guid for article in articles) != ["1", "2", "3", "4", "5"]:
            found.append(f"articles: {sorted(article.guid for article in articles)}")
        found += [
            f"the text of {article.guid} is the feed's" for article in articles if article.guid == "4" and article.text_source == "feed"
        ]
        found += [f"{article.title} is {article.state}" for article in articles if article.state != "done"]
        found += [
            f"{article.title} has the answer to another question"
            for article in articles
            if article.summary is None or article.summary.text != said(article)
        ]
        with self._database.read() as connection:
            num_results = connection.scalar(select(func.count()).select_from(results))
        if num_results != len(articles):
            found.append(f"{num_results} results of {len(articles)} articles")
        generated = self._generated()
        for article in articles:
            most = (2 if article.title in (STUBBORN, BUSY) else 1) + self._lost[said(article)]
            if generated[said(article)] > most:
                found.append(f"{article.title} was generated {generated[said(article)]} times, and {most} are explained")
        return found

    def _note_lost(self) -> None:
        """What was in flight: begun, and neither kept as an answer nor ended in another way that is stored."""
        generated = self._generated()
        with self._database.read() as connection:
            kept = set(connection.scalars(select(answers.c.text)))
        lost: list[str] = []
        for article in self._articles():
            num_ended = article.attempts + (article.state == "pending" and article.reason is not None)
            in_flight = generated[said(article)] - self._lost[said(article)] > num_ended
            if in_flight and article.state != "done" and said(article) not in kept:
                lost.append(said(article))
        if len(lost) > MAX_IN_FLIGHT:
            self._problems.append(f"{len(lost)} generations were in flight")
        self._lost.update(lost)

    def _check_marks(self) -> None:
        """At any moment the stored next check of a feed lies well behind its last request, else the next life would ask again at once."""
        last = dict(self._site.asked)
        for feed in self._store.feeds():
            if (path := self._site.urls[feed.url]) in last and feed.next_check_at < last[path] + TIMEOUT_S / 2:
                self._problems.append(f"{path} was asked before its next check was stored")

    def _generated(self) -> Counter[str]:
        log = self._folder / "generations.txt"
        return Counter(log.read_text().splitlines() if log.exists() else ())

    def _articles(self) -> list[Article]:
        return [self._store.article(article.id) for article in self._store.query(ArticleQuery(limit=100)).articles]


def said(article: Article) -> str:
    """What the model says about an article."""
    return digest(question(article, SummaryPrompt())[-1].content)
