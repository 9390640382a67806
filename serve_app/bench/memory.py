"""The most memory that this process held (resident set size) while something ran. Tests: tests/fast/test_bench_memory.py.

Linux counts the peak itself and can be told to begin anew: writing 5 to /proc/self/clear_refs resets VmHWM (`man 5 proc_pid_clear_refs`).
Where it cannot, a thread looks every 20 ms, and misses what is gone before it looks. Memory that was freed before goes back to the system
first, where the C library can do that; glibc keeps some of it otherwise, and it would count.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import pathlib
import threading
from types import TracebackType

import psutil

EVERY_S = 0.02
PROC = pathlib.Path("/proc/self")


class PeakMemory:
    """`with PeakMemory() as peak:`, then `peak.bytes`; `peak.method` says how it was found."""

    def __init__(self, proc: pathlib.Path = PROC) -> None:
        self.bytes = 0
        self._proc = proc
        self._process = psutil.Process()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def method(self) -> str:
        """In words, for the document."""
        return "VmHWM, reset before each arm" if self._thread is None else f"sampled every {EVERY_S * 1000:.0f} ms"

    def __enter__(self) -> PeakMemory:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # musl and macOS have no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)
        if not self._reset():
            self._look()
            self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is None:
            self.bytes = self._counted() or self._process.memory_info().rss
        else:
            self._over.set()
            self._thread.join()
            self._look()

    def _reset(self) -> bool:
        """True where the kernel counts from now on."""
        try:
            (self._proc / "clear_refs").write_text("5")
        except OSError:
            return False
        return self._counted() > 0

    def _counted(self) -> int:
        try:
            lines = (self._proc / "status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)
