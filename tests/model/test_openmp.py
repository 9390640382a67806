"""What computes beside the engine leaves no OpenMP thread behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from serve_app.model.openmp import compute_apart

SCRIPT = """
import time, psutil, torch
from serve_app.model.openmp import compute_apart

def num_threads():
    return psutil.Process().num_threads()

def multiply():
    torch.set_num_threads(2)
    torch.randn(1_000_000).exp_()
    return num_threads()

compute_apart(multiply)  # the first one also starts a thread of torch's own, which stays
deadline = time.monotonic() + 10
before = num_threads()
while before > 3 and time.monotonic() < deadline:  # a helper takes a moment to end
    before = min(before, num_threads())
during = compute_apart(multiply)
while num_threads() > before and time.monotonic() < deadline:
    pass
print(during - before, num_threads() - before)
"""


def test_its_team_is_gone_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["2", "0"]  # the thread itself and its one helper


def test_its_error_comes_to_the_caller() -> None:
    def fail() -> None:
        raise ValueError("no such weights")

    with pytest.raises(ValueError, match="no such weights"):
        compute_apart(fail)
    assert "compute-apart" not in {thread.name for thread in threading.enumerate()}
