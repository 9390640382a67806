"""One team of OpenMP threads per process, which is the engine's; and no memory kept by threads that are gone.

libgomp keeps a team for every thread that has ever computed, for as long as that thread lives. Where all teams together have more threads
than there are cores, it no longer spins between two kernels but sleeps, and a step of thousands of kernels takes 1.5 to 2 times as long
(https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html). So what computes beside the engine does it in a thread that ends.
Tests: tests/model/test_openmp.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def _give_back() -> None:
    """glibc keeps what a thread freed for the next one: after loading the embedded model 0.1 to 0.3 GB, differently in every run."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def compute_apart(call: Callable[[], T]) -> T:
    """The call's result or exception, from a thread of its own that is gone afterwards, with the memory that it freed. Blocks."""
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
    _give_back()
    if errors:
        raise errors[0]
    return results[0]
