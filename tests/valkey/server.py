"""A Valkey or Redis server of this test run alone, from the system's own program: loopback, a free port, a folder that goes with it.

`kill` is kill -9; `start` afterwards comes up on the same port, with what had reached the disk.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import psutil
import valkey

LIMIT_S = 30


def program() -> str | None:
    """The server on this machine: Valkey, or Redis."""
    return shutil.which("valkey-server") or shutil.which("redis-server")


class ValkeyServer:
    """`start` it, and `stop` it in the end."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._home = pathlib.Path(tempfile.mkdtemp(prefix="frugal-valkey-"))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    def client(self) -> valkey.Valkey:
        """A plain client, to look at the server behind the store's back."""
        client: valkey.Valkey = valkey.Valkey.from_url(self.url)
        return client

    def start(self) -> None:
        """Start, or start again; returns when it answers."""
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._home), "--save", "")
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *options, "--appendonly", "yes", "--appendfsync", "no"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert self._process.poll() is None, self._said()
            with contextlib.suppress(valkey.ConnectionError, valkey.BusyLoadingError), self.client() as client:
                client.ping()
                return
            assert time.monotonic() < deadline, self._said()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(LIMIT_S)

    def stop(self) -> None:
        """End it, and remove all that it wrote."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, it neither answers nor refuses."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def _said(self) -> str:
        return (self._home / "log").read_text(errors="replace")[-2_000:]
