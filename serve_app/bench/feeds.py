"""`bench feeds`: the feeds loop over many feeds under many host names, against a site in another process; no model and no Ray.

The names are resolved here, to the loopback interface, which the guard lets through for this only. Tests: tests/corpus/test_bench_feeds.py.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from aiohttp.abc import AbstractResolver, ResolveResult

from serve_app.bench.machine import conditions
from serve_app.feeds.fetch import HOST_GAP_S, Fetcher
from serve_app.feeds.loop import FeedsLoop
from serve_app.feeds.parsing import Parsers
from serve_app.messages import Answer
from serve_app.messages_feeds import Article
from serve_app.metrics import Metrics
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database

SITE = "serve_app.bench.feed_site"


@dataclass(frozen=True, slots=True)
class Load:
    """How many feeds under how many host names, one poll of each per `interval_s`, for `duration_s`."""

    feeds: int
    hosts: int
    interval_s: float
    duration_s: float

    def mistake(self) -> str | None:
        """Why this cannot be measured, or None."""
        if self.hosts > self.feeds:
            return f"--hosts {self.hosts} is more than --feeds {self.feeds}; lower it"
        needed_s = -(-self.feeds // self.hosts) * (HOST_GAP_S + 0.2)
        if needed_s > self.interval_s:
            return f"the feeds of one host take {needed_s:g} s, {HOST_GAP_S:g} s between two; raise --hosts or --interval"
        if self.duration_s < 2 * self.interval_s:
            return f"--duration must be at least twice --interval, {2 * self.interval_s:g} s"
        return None


class Loopback(AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """127.0.0.1."""
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing."""


def run(load: Load, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and give the document that the command prints; its `ok` says that no tick was missed and every host left in peace."""
    before = _cpu_s()
    with tempfile.TemporaryDirectory(prefix="frugal-bench-") as folder:
        found, checks = asyncio.run(_measure(load, pathlib.Path(folder), say))
    cpu_s = _cpu_s() - before
    own = {"cpu_s": round(cpu_s, 1), "cpu_share_of_a_core": round(cpu_s / found["duration_s"], 3), "checks": checks}
    ok = not found["missed_ticks"] and found["host_max_at_once"] <= 1 and (found["host_gap_min_s"] or HOST_GAP_S) >= 0.99 * HOST_GAP_S
    ok = ok and found["feeds_seen"] == load.feeds
    return {"bench": "feeds", "conditions": conditions(), "load": asdict(load), **found, **own, "ok": ok}


async def _measure(load: Load, folder: pathlib.Path, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, float]]:
    pipe = asyncio.subprocess.PIPE
    site = await asyncio.create_subprocess_exec(sys.executable, "-m", SITE, str(load.interval_s), stdin=pipe, stdout=pipe)
    assert site.stdout is not None
    port = int(await site.stdout.readline())
    database, parsers = Database(f"sqlite:///{folder}/frugal.db"), Parsers()
    store, metrics, settings = ArticleStore(database), Metrics(), _settings(load)
    started = time.time()
    say(f"adding {load.feeds} feeds under {load.hosts} host names")
    for number in range(load.feeds):  # their polls spread over the interval, as those of feeds that were added one by one
        url = f"http://site{number % load.hosts}.test:{port}/{number // load.hosts}"
        await asyncio.to_thread(store.add_feed, url, started + load.interval_s * (1 + number / load.feeds))
    fetcher = Fetcher(settings, resolver=Loopback())
    loop = FeedsLoop(store, fetcher, _no_model, metrics, "bench", time.time, settings, parse=parsers, jitter=lambda: 0.0)
    task = asyncio.create_task(loop.run())
    say(f"polling each every {load.interval_s:g} s for {load.duration_s:g} s")
    await asyncio.sleep(max(0.0, started + load.interval_s + load.duration_s - time.time()))
    memory = psutil.Process().memory_info().rss
    await loop.stop()
    await asyncio.gather(task, return_exceptions=True)
    await parsers.close()
    fetcher.close()
    database.close()
    said, _nothing = await site.communicate(b"")  # closes its standard input
    families = dict(metrics.snapshot("Feeds", "bench").families)
    checks = {dict(one.labels)["result"]: one.value for one in families.get("frugal_feed_checks_total", ()) if one.name.endswith("_total")}
    return {**json.loads(said), "memory_mb": round(memory / 1e6)}, checks


def _settings(load: Load) -> FeedsSettings:
    interval_s = load.interval_s
    return FeedsSettings(
        feeds=(),
        poll_interval_s=interval_s,
        min_interval_s=interval_s,
        max_interval_s=max(interval_s, 3600.0),
        follow_rate=False,
        min_words=1_000_000,  # every article is skipped: the model is not what is measured
        allow_private_hosts=("127.0.0.1",),
    )


async def _no_model(article: Article, settings: FeedsSettings) -> Answer:
    raise AssertionError("every article is too short")


def _cpu_s() -> float:
    """Of this process and the children that it has waited for: the parsers, and the site."""
    return sum(
        resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def table(document: dict[str, Any]) -> str:
    """For people."""
    load, gap = document["load"], document["host_gap_min_s"]
    statuses = ", ".join(f"{count} x {status}" for status, count in document["statuses"].items())
    return "\n".join(
        (
            f"{load['feeds']} feeds under {load['hosts']} host names, each polled every {load['interval_s']:g} s",
            f"  duration            {document['duration_s']:g} s",
            f"  polls               {document['polls']} ({statuses})",
            f"  missed ticks        {document['missed_ticks']}",
            f"  between two polls   p50 {document['gap_p50_s']} s, p99 {document['gap_p99_s']} s, max {document['gap_max_s']} s",
            f"  of one host         {gap} s apart at least, {document['host_max_at_once']} at once at most",
            f"  cost                {document['cpu_share_of_a_core']:.0%} of a core (the site included), {document['memory_mb']} MB",
        )
    )
