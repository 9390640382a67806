"""The process that parses: documents come on standard input, what was read goes to standard output, one at a time, for ever.

Framed by lengths (4 bytes, big-endian): a header as JSON, then the body; the reply is one JSON document. Each document may use MAX_CPU_S
of computing and MAX_MEMORY of address space; the kernel ends the process that wants more. `parsing.py` is the other end.
Tests: tests/process/test_feeds_parsing.py.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import struct
import sys
import time
from typing import IO

from serve_app.errors import FetchError
from serve_app.feeds.extract import extract
from serve_app.feeds.parse import parse

MAX_CPU_S = 20  # a feed of 15 MB takes 1 to 3 s, 3 MB of nested tags 12 s; see docs/feeds.md
MAX_MEMORY = 2_000_000_000
LENGTH = struct.Struct(">I")


def main() -> None:
    """Until standard input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    while (head := _frame(source)) is not None:
        body = _frame(source)
        if body is None:
            return
        reply = json.dumps(_reply(body, **json.loads(head))).encode()
        sink.write(LENGTH.pack(len(reply)) + reply)
        sink.flush()


def _reply(body: bytes, url: str, content_type: str | None, what: str = "feed") -> dict[str, object]:
    _limit_cpu()
    try:
        if what == "page":
            return {"page": extract(body, url, content_type)}
        return {"feed": dataclasses.asdict(parse(body, url, content_type))}
    except FetchError as error:
        return {"error": error.message}
    except MemoryError:
        return {"error": f"the {what} takes more than {MAX_MEMORY / 1e9:g} GB of memory to read; ask its owner for a shorter one"}
    except Exception as error:
        return {"error": f"the {what} cannot be read ({type(error).__name__} in the parser); tell its owner"}


def _limit_cpu() -> None:
    """From now on, MAX_CPU_S more. Only the soft limit can be moved again."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + MAX_CPU_S, hard))


def _frame(source: IO[bytes]) -> bytes | None:
    size = source.read(LENGTH.size)
    return source.read(LENGTH.unpack(size)[0]) if len(size) == LENGTH.size else None


if __name__ == "__main__":
    main()
