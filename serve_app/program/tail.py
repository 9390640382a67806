"""The end of a log, and what comes after it; and a clock for commands that repeat. Tests: tests/fast/test_tail.py."""

from __future__ import annotations

import os
import pathlib
import time
from collections import deque
from collections.abc import Iterator

POLL_S = 0.3
WATCH_S = 2.0


def lines(path: pathlib.Path, last: int, *, follow: bool = False) -> Iterator[str]:
    """The last lines, then new ones for ever where `follow` says so; a log that was begun anew is read from its beginning."""
    file = path.open(encoding="utf-8", errors="replace")
    try:
        yield from (line.rstrip("\n") for line in deque(file, maxlen=last))
        while follow:
            if line := file.readline():
                yield line.rstrip("\n")
                continue
            if _was_replaced(path, file.fileno(), file.tell()):
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
                continue
            time.sleep(POLL_S)
    finally:
        file.close()


def every(seconds: float, *, forever: bool) -> Iterator[int]:
    """0 at once; then, where it goes on for ever, 1, 2, 3 after so many seconds each."""
    number = 0
    while True:
        yield number
        if not forever:
            return
        number += 1
        time.sleep(seconds)


def _was_replaced(path: pathlib.Path, number: int, position: int) -> bool:
    try:
        now, held = path.stat(), os.fstat(number)
    except FileNotFoundError:
        return False
    return now.st_ino != held.st_ino or now.st_size < position
