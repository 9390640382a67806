"""The peak is what was held in between, not what is held at the end; without the kernel's count a thread finds it."""

from __future__ import annotations

import pathlib
import threading

import psutil
import pytest

from serve_app.bench import memory
from serve_app.bench.memory import PROC, PeakMemory

SIZE = 200_000_000


def hold(until: threading.Event | None = None) -> None:
    """Touch that much memory, and give it back."""
    held = bytearray(SIZE)
    held[::4096] = b"x" * len(held[::4096])
    if until is not None:
        assert until.wait(10)


def test_it_is_the_most_that_was_held_meanwhile() -> None:
    before = psutil.Process().memory_info().rss
    with PeakMemory() as peak:
        hold()
    assert before + SIZE * 0.8 < peak.bytes < before + SIZE * 1.5
    with PeakMemory() as after:
        pass
    assert after.bytes < peak.bytes - SIZE * 0.8  # what came before does not count


def test_without_the_kernels_count_a_thread_looks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = threading.Event()
    before = psutil.Process().memory_info().rss

    class Watched(PeakMemory):
        def _look(self) -> None:
            super()._look()
            if self.bytes > before + SIZE * 0.8:
                seen.set()

    monkeypatch.setattr(memory, "EVERY_S", 0.001)
    with Watched(tmp_path / "no-proc") as peak:
        hold(until=seen)
    assert peak.bytes > before + SIZE * 0.8
    assert peak.method.startswith("sampled every")


@pytest.mark.skipif(not (PROC / "clear_refs").exists(), reason="only Linux counts a process's peak")
def test_it_says_which_way_was_taken() -> None:
    with PeakMemory() as peak:
        pass
    assert peak.method == "VmHWM, reset before each arm"
