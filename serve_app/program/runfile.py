"""Who works on a data folder: one run at a time, and where the others find it. `stop`, `status` and `logs` read what `serve` wrote.

The right to run is a lock that the kernel gives back when its holder dies, however it dies. Tests: tests/fast/test_runfile.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import time
from dataclasses import dataclass

import psutil
from filelock import FileLock, Timeout

STOP_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the launcher. `born_at` is its process's birth (see `birth`), so that a reused id is never taken for it."""

    pid: int
    born_at: float
    url: str
    profile: str
    dashboard: str = ""  # host:port; empty until Ray has said where it is
    session: str = ""  # Ray's folder of logs
    ready_at: float | None = None  # Unix time

    def process(self) -> psutil.Process | None:
        """The launcher, where it lives."""
        try:
            process = psutil.Process(self.pid)
            return process if birth(process) == self.born_at and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class RunFile:
    """The run on one data folder."""

    def __init__(self, data_path: pathlib.Path) -> None:
        self._path = data_path / "run.json"
        self._lock = FileLock(data_path / "run.lock")
        self._run: Run | None = None

    def begin(self, url: str, profile: str) -> Run | None:
        """Take the folder. The run that has it instead, or None where it is ours now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return self.read() or Run(0, 0.0, "", "")
        own = psutil.Process()
        self._write(Run(own.pid, birth(own), url, profile))
        return None

    def update(self, **values: object) -> None:
        """Ours has got further."""
        assert self._run is not None
        self._write(dataclasses.replace(self._run, **values))  # type: ignore[arg-type]

    def end(self) -> None:
        """Ours is over."""
        if self._run is not None:
            self._path.unlink(missing_ok=True)
            self._run = None
        self._lock.release()

    def read(self) -> Run | None:
        """The live run on this folder, ours or another's."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            run = Run(**json.loads(self._path.read_text()))
            return run if run.process() is not None else None
        return None

    def _write(self, run: Run) -> None:
        self._run = run
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(dataclasses.asdict(run)))
        draft.replace(self._path)


def birth(process: psutil.Process) -> float:
    """When a process began: on Linux in the kernel's ticks since the boot, because psutil's Unix time moves when the clock is set."""
    try:
        stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return process.create_time()  # not Linux, or gone: then this raises NoSuchProcess
    return float(stat.rpartition(")")[2].split()[19])  # the 22nd field; the 2nd is the name and may hold spaces


def stop(run: Run, within_s: float) -> bool:
    """Ask a run to end; False where it still lives after that time."""
    process = run.process()
    if process is None:
        return True
    process.terminate()
    deadline = time.monotonic() + within_s
    while run.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(STOP_POLL_S)
    return True
