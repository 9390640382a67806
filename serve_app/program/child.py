"""The driver as the launcher's child: its log, its pipe of events, its end. Tests: tests/process/test_launcher.py."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

LAUNCHER = "FRUGAL_LAUNCHER"  # in the child's environment: the process that it ends with


class Child:
    """A program in a session of its own (Ctrl-C in the terminal reaches only the launcher). Its last argument is the pipe's number."""

    def __init__(self, command: Sequence[str], log: pathlib.Path, environment: dict[str, str]) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        try:
            with log.open("ab") as out:
                self._popen = subprocess.Popen(
                    [*command, str(writer)],
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    env={**environment, LAUNCHER: str(os.getpid())},
                    pass_fds=(writer,),
                    start_new_session=True,
                )
        finally:
            os.close(writer)
        self.process = psutil.Process(self._popen.pid)
        self._unread = b""

    def events(self) -> Iterator[dict[str, Any]]:
        """What it has said since the last call."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._reader, 65536):
                self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            yield json.loads(line)

    def poll(self) -> int | None:
        """Its exit status, None while it lives."""
        return self._popen.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        self._popen.terminate()

    def kill(self) -> None:
        """End it, if it lives, and close the pipe."""
        self._popen.kill()
        self._popen.wait()
        with contextlib.suppress(OSError):
            os.close(self._reader)
