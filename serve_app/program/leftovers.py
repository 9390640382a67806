"""What a killed run left behind: found by the mark in its environment and by its executable, and ended. Nothing else ever is.

Ray's processes and our HAProxy inherit `MARK` from the launcher; it names the data folder, and only one run works on a folder (runfile.py).
Tests: tests/process/test_leftovers.py with processes of the test's own; tests/ray kills the real program.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator

import psutil

MARK = "FRUGAL_RUN"  # in the environment of everything that a run starts: its data folder
NAMES = ("gcs_server", "raylet", "haproxy")  # besides Python, the executables that a run consists of
TERMINATE_S, KILL_S = 2.0, 3.0


def find(data_path: pathlib.Path) -> list[psutil.Process]:
    """Processes of earlier runs on this data folder. Not this process, its ancestors, or anything else."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = {process for marked in _marked(str(data_path)) for process in family(marked)}
    return [process for process in found if process.pid not in own]


def family(process: psutil.Process) -> set[psutil.Process]:
    """A process and everything below it: Ray's agents overwrite their environment, and with it the mark."""
    try:
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def end(processes: list[psutil.Process], *, asks_first: bool = True) -> list[psutil.Process]:
    """Terminate, then kill; those that are still there. psutil knows a process by its id and birth, so a reused id is never hit."""
    for number, wait_s in (("terminate", TERMINATE_S), ("kill", KILL_S))[0 if asks_first else 1 :]:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, number)()
        _, processes = psutil.wait_procs(processes, timeout=wait_s)
    return processes


def described(processes: list[psutil.Process]) -> str:
    """Names and ids for a person."""
    words = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            words.append(f"{process.name()} ({process.pid})")
    return ", ".join(sorted(words))


def _marked(folder: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone meanwhile, or somebody else's
            if process.uids().real == os.getuid() and process.environ().get(MARK) == folder and _is_part(process):
                yield process


def _is_part(process: psutil.Process) -> bool:
    executable = pathlib.Path(process.exe())
    return executable.name in NAMES or executable == pathlib.Path(sys.executable).resolve()
