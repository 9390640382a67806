"""One team of OpenMP threads per process, which is the engine's.

libgomp keeps a team for every thread that has ever computed, for as long as that thread lives. Where all teams together have more threads
than there are cores, it no longer spins between two kernels but sleeps, and a step of thousands of kernels takes 1.5 to 2 times as long
(https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html). So what computes beside the engine does it in a thread that ends.
Tests: tests/model/test_openmp.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_apart(call: Callable[[], T]) -> T:
    """The call's result or exception, from a thread of its own that is gone afterwards. Blocks."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="compute-apart")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
