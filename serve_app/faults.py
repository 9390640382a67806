"""Fault points: where a process can be told to die, so that a test can show what a kill at that point costs.

The variable FRUGAL_FAULT names a point and, behind a colon, which passing of it is the last (`fetched:2`); without it a passing is one
comparison. The signal is SIGKILL: nothing is flushed, closed or rolled back. A point is worth its line where the state before it and the
state behind it differ for whoever starts again. Tests: tests/corpus/test_kills.py kills at every one of them.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, get_args

VARIABLE = "FRUGAL_FAULT"
FaultPoint = Literal[
    "lease taken",
    "list synced",
    "due feeds read",
    "check marked",  # the time of the next check is stored, and nothing is asked for yet
    "fetched",
    "parsed",
    "decided",
    "check written",  # in its transaction, which is not committed
    "check stored",
    "failure stored",
    "page marked",  # the next try is stored, and nothing is asked for yet
    "page read",
    "page written",  # in its transaction, which is not committed
    "page stored",
    "article taken up",
    "answer begun",  # the model is at work
    "answer made",  # whole, and nowhere stored
    "answer kept",  # in the cache's store
    "answer received",
    "result written",  # in its transaction, which is not committed
    "result stored",
    "failed try stored",
    "article postponed",
]
POINTS: tuple[FaultPoint, ...] = get_args(FaultPoint)


class Fault:
    """Counts the passings of one point; without a point it does nothing.

    Raises:
        ValueError: `text` names no point.
    """

    def __init__(self, text: str | None) -> None:
        self._point, _, number = (text or "").partition(":")
        if text and (self._point not in POINTS or (number and not number.isdigit())):
            raise ValueError(f"{VARIABLE}={text!r} names no fault point; use one of {', '.join(POINTS)}, with :2 for its second passing")
        self._left = int(number or 1)

    def passes(self, point: FaultPoint) -> bool:
        """Note a passing; True where it is the one that was meant."""
        if point != self._point:
            return False
        self._left -= 1
        return self._left == 0


_fault = Fault(os.environ.get(VARIABLE))


def at(point: FaultPoint) -> None:
    """This process is at `point` now; it ends here if that was asked for."""
    if _fault.passes(point):
        os.kill(os.getpid(), signal.SIGKILL)
