"""Parsing in processes of its own, each document with a deadline: a hostile feed may cost seconds and memory there, and nothing here.

feedparser is pure Python: in a thread it would hold the interpreter against every answer and health check, and nothing could end it.
A process starts with the first document and is kept; one that was ended, or read something large, is replaced.
Tests: tests/process/test_feeds_parsing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any

from serve_app.errors import FetchError
from serve_app.feeds.parse import Entry, ParsedFeed
from serve_app.feeds.parser_child import LENGTH, MAX_CPU_S

NUM_PROCESSES = 2  # one that a bad feed keeps busy leaves one for the others
MAX_WALL_S = 120.0  # on a machine that is busy with other things MAX_CPU_S of computing takes longer
LARGE = 2_000_000  # bytes; what Python took for a document of this size it does not give back


class Parsers:
    """`await parsers(body, url, content_type)` is parse.parse in one of these processes."""

    def __init__(self, num_processes: int = NUM_PROCESSES, *, module: str = "serve_app.feeds.parser_child") -> None:
        self._module = module
        self._idle: list[asyncio.subprocess.Process] = []
        self._free = asyncio.Semaphore(num_processes)

    async def __call__(self, body: bytes, url: str, content_type: str | None) -> ParsedFeed:
        """What parse.parse gives.

        Raises:
            FetchError: it is not a feed, or takes more than a feed may.
        """
        return _feed((await self._reply(body, {"url": url, "content_type": content_type}))["feed"])

    async def extract(self, body: bytes, url: str, content_type: str | None) -> str:
        """What extract.extract gives.

        Raises:
            FetchError: it is no page, or takes more than a page may; or the extra is not installed.
        """
        found: str = (await self._reply(body, {"url": url, "content_type": content_type, "what": "page"}))["page"]
        return found

    async def _reply(self, body: bytes, head: dict[str, str | None]) -> dict[str, Any]:
        async with self._free:
            process = self._waiting() or await self._start()
            try:
                reply = await self._ask(process, body, head)
            except BaseException:
                await _end(process)
                raise
            if len(body) > LARGE:
                await _end(process)
            else:
                self._idle.append(process)
        if "error" in reply:
            raise FetchError(reply["error"])
        return reply

    async def close(self) -> None:
        """End the processes that wait."""
        while self._idle:
            await _end(self._idle.pop())

    def _waiting(self) -> asyncio.subprocess.Process | None:
        """A process from before. One that was ended while it waited, as the system does where memory is short, is no feed's fault."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        return None

    async def _start(self) -> asyncio.subprocess.Process:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # a replica's own may be longer than ours
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(sys.executable, "-m", self._module, stdin=pipe, stdout=pipe, env=environment)

    async def _ask(self, process: asyncio.subprocess.Process, body: bytes, head: dict[str, str | None]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(MAX_WALL_S):
                for frame in (json.dumps(head).encode(), body):
                    process.stdin.write(LENGTH.pack(len(frame)) + frame)
                await process.stdin.drain()
                size = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))[0]
                reply: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
                return reply
        except TimeoutError:
            raise FetchError(
                f"the {head.get('what') or 'feed'} could not be read within {MAX_WALL_S:g} s; ask its owner for a shorter one"
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise FetchError(_why(await process.wait(), head.get("what") or "feed")) from None


def _why(status: int, what: str) -> str:
    if status == -signal.SIGXCPU:
        return f"the {what} takes more than {MAX_CPU_S} s of computing to read; tell its owner"
    return f"the {what} cannot be read (the parser ended with status {status}); tell its owner"


def _feed(data: dict[str, Any]) -> ParsedFeed:
    return ParsedFeed(**{**data, "entries": tuple(Entry(**{**entry, "tags": tuple(entry["tags"])}) for entry in data["entries"])})


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
