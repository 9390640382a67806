"""A web site of many feeds for `bench feeds`, in a process of its own: every host name and path is a feed that grows now and then.

Prints its port, serves until standard input ends, then prints what it saw as one JSON document. Tests: tests/corpus/test_bench_feeds.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

NUM_ENTRIES = 10
GROWS_EVERY = 8  # requests: then the feed has a new entry; else the answer is a 304
TEXT = "A new release brings a faster scheduler, two corrections and a page of documentation for those who run it on one machine. " * 5


@dataclass
class Seen:
    """What came. Times are seconds of this process's clock."""

    by_feed: dict[str, list[float]] = field(default_factory=dict)
    by_host: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    live: Counter[str] = field(default_factory=Counter)
    max_live: int = 0

    def document(self, duration_s: float, interval_s: float) -> dict[str, object]:
        """The figures: how late the polls of a feed were, and how close those of a host."""
        gaps = sorted(later - earlier for times in self.by_feed.values() for earlier, later in pairwise(times))
        close = [later - earlier for times in self.by_host.values() for earlier, later in pairwise(times)]
        return {
            "duration_s": round(duration_s, 1),
            "feeds_seen": len(self.by_feed),
            "polls": sum(map(len, self.by_feed.values())),
            "statuses": dict(self.statuses),
            "missed_ticks": sum(int(gap / interval_s + 0.5) - 1 for gap in gaps if gap >= 1.5 * interval_s),
            "gap_p50_s": _at(gaps, 0.5),
            "gap_p99_s": _at(gaps, 0.99),
            "gap_max_s": _at(gaps, 1.0),
            "host_gap_min_s": round(min(close), 3) if close else None,
            "host_max_at_once": self.max_live,
        }


class Site:
    """Answers requests and notes them."""

    def __init__(self) -> None:
        self.seen = Seen()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection, which is what the fetcher makes."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
            host, path = headers.get("host", ""), head[0].split(" ")[1]
            self._note(host, host + path)
            self.seen.live[host] += 1
            self.seen.max_live = max(self.seen.max_live, self.seen.live[host])
            writer.write(self._reply(host + path, headers.get("if-none-match")))
            await writer.drain()
            self.seen.live[host] -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _note(self, host: str, feed: str) -> None:
        now = time.monotonic()
        self.seen.by_feed.setdefault(feed, []).append(now)
        self.seen.by_host.setdefault(host, []).append(now)

    def _reply(self, feed: str, etag: str | None) -> bytes:
        version = (len(self.seen.by_feed[feed]) + len(feed) + sum(feed.encode())) // GROWS_EVERY
        own = f'"{version}"'
        if etag == own:
            self.seen.statuses["304"] += 1
            return f"HTTP/1.1 304 Not Modified\r\nETag: {own}\r\nConnection: close\r\n\r\n".encode()
        self.seen.statuses["200"] += 1
        body = _body(feed, version)
        lines = ("HTTP/1.1 200 OK", f"ETag: {own}", "Content-Type: text/xml", f"Content-Length: {len(body)}", "Connection: close")
        return "\r\n".join((*lines, "", "")).encode() + body


def _body(feed: str, version: int) -> bytes:
    items = "".join(
        f"<item><guid isPermaLink='false'>{number}</guid><title>Entry {number}</title><description>{TEXT}</description></item>"
        for number in range(version, version - NUM_ENTRIES, -1)
    )
    return f"<?xml version='1.0'?><rss version='2.0'><channel><title>{feed}</title>{items}</channel></rss>".encode()


def _at(values: list[float], share: float) -> float | None:
    return round(values[min(len(values) - 1, int(share * len(values)))], 3) if values else None


async def main(interval_s: float) -> None:
    """Until standard input ends."""
    site = Site()
    server = await asyncio.start_server(site.handle, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    started = time.monotonic()
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    sys.stdout.write(json.dumps(site.seen.document(time.monotonic() - started, interval_s)) + "\n")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
