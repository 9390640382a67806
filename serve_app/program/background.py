"""A launcher that goes on without us: in a session of its own, followed until the program is ready. Tests: tests/ray/test_e_stop.py."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from serve_app.program.launcher import StartError
from serve_app.program.peek import Peek
from serve_app.program.runfile import RunFile

POLL_S = 0.1


def start(path: pathlib.Path, arguments: Sequence[str], peek: Peek, say: Callable[[str], None]) -> None:
    """Start a launcher of its own session that goes on without us; come back when the program is ready.

    Raises:
        StartError: it ended before that; it has said why.
    """
    run_file = RunFile(peek.app.data_path)
    if (other := run_file.read()) is not None:
        raise StartError(f"process {other.pid} at {other.url} works on {peek.app.data_path} already; `frugal-serve stop` ends it")
    log = peek.app.data_path / "launcher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with log.open("ab") as out:
        command = [sys.executable, "-m", "serve_app", "serve", str(path), *arguments]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        _follow(child, log, run_file, say)
    except KeyboardInterrupt:
        child.terminate()
        raise


def _follow(child: subprocess.Popen[bytes], log: pathlib.Path, run_file: RunFile, say: Callable[[str], None]) -> None:
    with log.open(encoding="utf-8", errors="replace") as told:
        while True:
            ended = child.poll() is not None
            for line in told:
                say(line.rstrip("\n"))
            if ended:
                raise StartError(f"it ended with {child.returncode}")
            run = run_file.read()
            if run is not None and run.pid == child.pid and run.ready_at is not None:
                say(f"it goes on as process {child.pid}; `frugal-serve stop` ends it, `frugal-serve logs -f` shows its log")
                return
            time.sleep(POLL_S)
