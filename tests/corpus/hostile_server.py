"""A server that does everything wrong that a feed's server can do, one path per misdeed; `/good/...` are feeds in order.

Written on sockets, because no HTTP library lets a server behave like this.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable

from tests.fast.fakes_feeds import FakeFeed
from tests.fast.test_feeds_inflate import BOMBS

Misdeed = Callable[[asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
RSS = b"<?xml version='1.0'?>%s<rss version='2.0'><channel><title>x</title><item><title>%s</title></item></channel></rss>"
LAUGHS = b"<!DOCTYPE r [<!ENTITY a0 'ha'>" + b"".join(b"<!ENTITY a%d '%s'>" % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 20)) + b"]>"
QUADRATIC = b"<!DOCTYPE r [\n<!ENTITY a '" + b"A" * 50_000 + b"'>\n]>"
PRIVATE = (  # every way to write or wrap an address of a private network
    *("127.0.0.2", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.0.0.8", "224.0.0.1", "255.255.255.255"),
    *("2130706434", "0x7f000002", "0x7f.0.0.2", "0177.0.0.2", "127.2", "127.0.2", "127.0.0.2.", "127.0.0.1."),
    *("[::1]", "[::ffff:127.0.0.2]", "[64:ff9b::7f00:2]", "[2002:7f00:2::]", "[fe80::1]", "[fc00::1]", "[::127.0.0.2]", "[fe80::1%25lo]"),
    *("user@10.0.0.1", "127.0.0.1@10.0.0.1", "private.test", "PRIVATE.test."),
)
REFUSED_TARGETS = (
    "file:///etc/hostname",
    "ftp://public.test/",
    "gopher://public.test/",
    "http:///x",
    "http://[/",
    "http://public.test:25/",
)


def whole(body: bytes, *headers: bytes) -> Misdeed:
    """A complete reply."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    return act


def raw(data: bytes) -> Misdeed:
    """These bytes, and the end."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return act


def endless(start: bytes, again: bytes, pause_s: float = 0.0) -> Misdeed:
    """Something, and then something else for ever."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return act


def redirect(to: str) -> Misdeed:
    """A redirect."""
    return raw(b"HTTP/1.1 301 Moved Permanently\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % to.encode())


BOMB = BOMBS["gzip"]()
MISDEEDS: dict[str, Misdeed] = {
    **{f"bomb-{coding}": whole(make(), b"Content-Encoding: " + coding.encode()) for coding, make in BOMBS.items()},
    "bomb-in-chunks": raw(OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BOMB), BOMB)),
    "endless-body": endless(OK + b"\r\n<rss>", b"<item/>" * 10_000),
    "endless-chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
    "endless-headers": endless(OK, b"X-Again: and again\r\n" * 1_000),
    "endless-header": endless(OK + b"X-Long: ", b"x" * 65_536),
    "endless-status": endless(b"HTTP/1.1 200 ", b"O" * 65_536),
    "endless-continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "endless-extension": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x=y;" * 10_000),
    "endless-trailers": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Again: and again\r\n" * 1_000),
    "slow-headers": endless(OK, b"X-A: b\r\n", 0.05),
    "slow-body": endless(OK + b"\r\n<rss>", b" ", 0.05),
    "silence": endless(b"", b"", 0.05),
    "hang-up": raw(b""),
    "no-http": raw(b"220 mail.test ESMTP\r\n"),
    "length-too-long": raw(OK + b"Content-Length: 999999999999\r\n\r\n<rss"),
    "length-negative": raw(OK + b"Content-Length: -5\r\n\r\n<rss/>"),
    "length-twice": raw(OK + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n<rss/>"),
    "torn-gzip": whole(gzip.compress(RSS % (b"", b"x"))[:-9], b"Content-Encoding: gzip"),
    "no-gzip": whole(RSS % (b"", b"x"), b"Content-Encoding: gzip"),
    "unknown-coding": whole(b"x", b"Content-Encoding: compress"),
    "page": whole(b"<!doctype html><title>Welcome</title>", b"Content-Type: text/html"),
    "empty": whole(b""),
    "file-name": whole(b"/dev/zero"),
    "not-found-304": raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "deep-json": whole(b'{"version": "https://jsonfeed.org/version/1", "items": ' + b"[" * 1_000_000),
    "loop": redirect("/loop"),
    **{f"to-{target}": redirect(target if ":/" in target else f"http://{target}/") for target in (*PRIVATE, *REFUSED_TARGETS)},
}
HARMLESS: dict[str, Misdeed] = {  # refused or read as little: neither may take long or much
    "laughs": whole(RSS % (LAUGHS, b"&a19;")),
    "quadratic": whole(RSS % (QUADRATIC, b"&a;" * 2_000)),
    "outside": whole(RSS % (b"<!DOCTYPE r [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", b"&x;")),
    "deep": whole(b"<rss version='2.0'><channel>" + b"<a>" * 100_000),
    "comment-bomb": whole(RSS % (b"", b"<![CDATA[" + b"<!--" * 100_000 + b"]]>")),
}
GOOD = ("one", "two", "three")


class HostileServer:
    """`async with HostileServer() as server`; `server.url(name)` is the address of one misdeed, under a host name of its own."""

    async def __aenter__(self) -> HostileServer:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()

    def urls(self) -> dict[str, str]:
        """Name -> address of every feed here. Each has a host of its own, because one host is asked for one feed at a time."""
        names = [*MISDEEDS, *HARMLESS, *(f"good-{name}" for name in GOOD)]
        return {name: f"http://h{number}.test:{self.port}/{number}" for number, name in enumerate(names)}

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        every = {**MISDEEDS, **HARMLESS, **{f"good-{name}": whole(FakeFeed().entry(name).body(), b'ETag: "1"') for name in GOOD}}
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError, IndexError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].strip(b"/")
            await every.get("loop" if path == b"loop" else list(every)[int(path)], raw(b""))(writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
