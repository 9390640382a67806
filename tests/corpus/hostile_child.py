"""Reads feeds of the hostile server in a process of its own and prints what became of them, and of this process's memory.

Standard input: `{"urls": {name: address}}`. The last line of standard output: `{"states", "good_s", "growth_mb", "parser_mb"}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pathlib
import socket
import sys
import tempfile
import time

import psutil
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.feeds.fetch import Fetcher
from serve_app.feeds.loop import FeedsLoop
from serve_app.feeds.parsing import Parsers
from serve_app.messages import Answer
from serve_app.messages_feeds import Article
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database
from tests.fast.fakes_feeds import answer, until


class Dns(AbstractResolver):
    """Every name is the server's; `private.test` is not."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        address = "10.0.0.1" if host.lower().startswith("private") else "127.0.0.1"
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def ask(article: Article, settings: FeedsSettings) -> Answer:
    return answer()


def peak_mb() -> float:
    """The most memory that this process ever had, in MB (Linux)."""
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


async def main(folder: str, urls: dict[str, str]) -> None:
    database, parsers = Database(f"sqlite:///{folder}/frugal.db"), Parsers()
    store = ArticleStore(database)
    settings = FeedsSettings.model_validate(
        {"feeds": (), "allow_private_hosts": ("127.0.0.1",), "total_timeout_s": 4.0, "connect_timeout_s": 2.0, "min_words": 3}
    )
    for url in urls.values():
        store.add_feed(url, 1.0)
    loop = FeedsLoop(store, Fetcher(settings, resolver=Dns()), ask, Metrics(), "me", time.time, settings, parse=parsers, idle_wait_s=0.1)
    start_mb, started, good_s = peak_mb(), time.monotonic(), dict[str, float]()
    task = asyncio.create_task(loop.run())

    def all_known() -> bool:
        known = {feed.url: feed for feed in store.feeds()}
        for name, url in urls.items():
            if name.startswith("good") and known[url].state == "ok":
                good_s.setdefault(name, time.monotonic() - started)
        return all(feed.state != "new" for feed in known.values())

    await until(all_known, timeout_s=60.0)
    growth_mb = peak_mb() - start_mb
    parser_mb = sum(child.memory_info().rss for child in psutil.Process().children()) / 1e6
    known = {feed.url: (feed.state, feed.last_error) for feed in store.feeds()}
    await loop.stop()
    await asyncio.gather(task, return_exceptions=True)
    await parsers.close()
    database.close()
    states = {name: known[url] for name, url in urls.items()}
    sys.stdout.write(json.dumps({"states": states, "good_s": good_s, "growth_mb": growth_mb, "parser_mb": parser_mb}) + "\n")


if __name__ == "__main__":
    logging.disable()
    with tempfile.TemporaryDirectory() as own_folder:
        asyncio.run(main(own_folder, json.loads(sys.stdin.read())["urls"]))
