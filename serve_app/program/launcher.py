"""Starts the program, shows how it comes up, starts it again when Ray dies under it, and ends it.

    serve -> lock, leftovers, port -> driver (Ray, Serve) -> /ready -> watch --signal--> drain -> end
                                        ^                                |
                                        +---- Ray or the driver died ----+

The driver (driver.py) is a child, asked by SIGTERM to end; what is still alive after its time is killed, and only what this run started.
Knows no Ray. Tests: tests/process/test_launcher.py, tests/ray.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import psutil

from serve_app.client import Client
from serve_app.program import leftovers
from serve_app.program.child import Child
from serve_app.program.peek import Peek
from serve_app.program.profile import Profile, inner_ports, make_run_folder, run_folder
from serve_app.program.progress import Progress, StartError
from serve_app.program.runfile import RunFile

STOP_S = 8.0  # beyond the drain: then SIGKILL; with the default drain the whole stop takes at most 15 s
PORT_CHECK_S = 10.0  # while it starts
POLL_S = 0.5  # while it starts, and between two looks at Ray's processes
WATCH_S = 3.0  # between two looks at the articles
REPLY_S = 3.0  # a server that is silent for longer is asked again; a stop waits no longer for it, either
MAX_FAILED_STARTS = 3  # in a row, of a program that has been ready
MAX_LOG_BYTES = 64_000_000
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DRIVER = (sys.executable, "-m", "serve_app.program.driver")
ESSENTIAL = ("gcs_server", "raylet")  # nothing of Ray's survives their death, and nothing of Ray's starts them again

__all__ = ["Launcher", "StartError"]
Say = Callable[[str], None]


class Died(Exception):
    """The driver, or Ray under it, is gone; the message says which."""


class Launcher:
    """One run on a configuration. `say` prints a line; `program` takes the configuration's path and the pipe's number as arguments."""

    def __init__(self, path: pathlib.Path, peek: Peek, profile: Profile, say: Say, program: Sequence[str] = DRIVER) -> None:
        self._path = path
        self._peek = peek
        self._profile = profile
        self._print = say
        self._program = program
        self._stop = threading.Event()
        self._data = peek.app.data_path
        self._log = self._data / "serve.log"
        self._run_file = RunFile(self._data)
        self._child: Child | None = None
        self._essential: list[psutil.Process] = []
        self._folder: int | None = None
        self._stop_at: float | None = None  # when the signal came
        self._num_starts_left = 0  # until the program has been ready: what fails at once would fail again
        self._progress = Progress(peek.url, self._log, self._say)

    def run(self) -> None:
        """Serve until a signal comes.

        Raises:
            StartError: another run has the data folder, the port is taken, the configuration is wrong, or Serve cannot deploy it.
        """
        # One that nohup has us ignore stays ignored. SIGINT does not: a script that starts us with & would have no gentle way to end us.
        numbers = [number for number in SIGNALS if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            self._take_folder()
            self._clean_up()
            self._refuse_taken_port()
            self._say(self._profile.why)
            while not self._stop.is_set():
                self._serve_once()
        finally:
            self._end()
            self._run_file.end()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _serve_once(self) -> None:
        """One driver: until a signal comes, or it or Ray dies. The first start must succeed; a later one is tried a few times."""
        try:
            self._spawn()
            self._wait_until_ready()
            self._watch()
        except (Died, StartError) as error:
            why = f"{error}; {self._progress.tail()}" if isinstance(error, Died) else str(error)
            if self._num_starts_left == 0:
                raise StartError(why) from None
            self._num_starts_left -= 1
            self._say(f"{error}; starting it again")
            self._run_file.update(ready_at=None)
            self._kill()
            self._prepare_folder()
            self._progress.begin_again()

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed: that ends the program in order, not in the middle of a line
            self._print(line)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_at = self._stop_at or time.monotonic()
        self._stop.set()

    def _take_folder(self) -> None:
        other = self._run_file.begin(self._peek.url, self._profile.name)
        if other is not None:
            who = f"process {other.pid} at {other.url}" if other.pid else "another process"
            raise StartError(f"{who} works on {self._data} already; `frugal-serve stop` ends it, or set another args.data_dir")

    def _clean_up(self) -> None:
        left = leftovers.find(self._data)
        if left:
            self._say(f"cleaning up what a killed run left: {leftovers.described(left)}")
            if still := leftovers.end(left):
                raise StartError(f"cannot end {leftovers.described(still)}, left by a killed run; end it yourself")
        self._prepare_folder()

    def _prepare_folder(self) -> None:
        self._remove_folder()
        if self._profile.name == "fast":
            self._folder = make_run_folder(run_folder(self._data))

    def _remove_folder(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None
        shutil.rmtree(run_folder(self._data), ignore_errors=True)

    def _refuse_taken_port(self) -> None:
        with socket.socket(socket.AF_INET6 if ":" in self._peek.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._peek.host, self._peek.port))
            except OSError as error:
                holder = _holder(self._peek.port)
                who = f" by {leftovers.described([holder])}" if holder is not None else ""
                raise StartError(
                    f"{self._peek.host}:{self._peek.port} cannot be used: {error.strerror}{who}; stop the program "
                    f"that has it, or set another http_options.port in {self._path}"
                ) from None

    def _fail_if_port_is_anothers(self) -> None:
        """It was free when we looked, seconds ago; Serve would try to bind it for ever."""
        assert self._child is not None
        holder = _holder(self._peek.port)
        if holder is not None and holder not in leftovers.family(self._child.process):
            raise StartError(f"{self._peek.host}:{self._peek.port} was taken by {leftovers.described([holder])} while we started; stop it")

    def _spawn(self) -> None:
        if self._log.exists():
            self._log.replace(self._log.with_name("serve.log.1"))  # where the last run crashed, it says why
        ports = inner_ports(self._data) if self._profile.name == "fast" else {}
        environment = {**self._profile.environment, **ports, **os.environ, leftovers.MARK: str(self._data)}
        environment.pop("RAY_ADDRESS", None)  # this run has a Ray of its own
        self._say(f"starting Ray and Serve; log: {self._log}")
        self._child = Child([*self._program, str(self._path)], self._log, environment)

    def _wait_until_ready(self) -> None:
        look_at = time.monotonic() + PORT_CHECK_S
        with Client(self._peek.url, timeout_s=REPLY_S) as client:
            while not self._stop.is_set():
                self._read_events()
                self._fail_if_dead()
                if self._progress.show(client):
                    break
                if time.monotonic() >= look_at:
                    self._fail_if_port_is_anothers()
                    look_at = time.monotonic() + PORT_CHECK_S
                self._stop.wait(POLL_S)
            if not self._stop.is_set():
                self._num_starts_left = MAX_FAILED_STARTS
                self._run_file.update(ready_at=time.time())
                run = self._run_file.read()
                self._progress.show_ready(client, run.dashboard if run is not None else "")

    def _watch(self) -> None:
        assert self._child is not None
        self._essential = [process for process in leftovers.family(self._child.process) if _name(process) in ESSENTIAL]
        look_at = 0.0
        with Client(self._peek.url, timeout_s=REPLY_S) as client:
            while not self._stop.wait(POLL_S):
                self._read_events()
                self._fail_if_dead()
                if time.monotonic() >= look_at:
                    self._progress.show_articles(client)
                    self._trim_log()
                    look_at = time.monotonic() + WATCH_S

    def _read_events(self) -> None:
        assert self._child is not None
        for event in self._child.events():
            self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        match event:
            case {"kind": "refused", "problems": problems}:
                raise StartError("\n".join(f"{self._path}: {problem}" for problem in problems))
            case {"kind": "ray", "dashboard": dashboard, "session": session}:
                self._run_file.update(dashboard=dashboard or "", session=session)
                self._say(f"{self._progress.age()}  Ray is up" + (f"; dashboard http://{dashboard}/" if dashboard else ""))
            case {"kind": "serve"}:
                self._say(f"{self._progress.age()}  Serve is up")
            case {"kind": "draining", "running": running}:
                self._say(f"waiting for {running} running answers")
            case {"kind": "failed", "message": message}:
                who = event.get("deployment", "the application")
                raise StartError(f"Serve cannot deploy {who}: {_reason(message)}; {self._progress.tail()}")

    def _fail_if_dead(self) -> None:
        assert self._child is not None
        for process in self._essential:
            if not _alive(process):
                raise Died(f"Ray's {_name(process)} died")
        if (status := self._child.poll()) is not None:
            self._read_events()  # the reason may have come with the end
            raise Died(f"the program ended by itself with {status}")

    def _trim_log(self) -> None:
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(self._log, self._log.with_name("serve.log.1"))
                os.truncate(self._log, 0)  # its writers append, so they go on at the new end

    def _end(self) -> None:
        """SIGTERM to the driver, which drains; after its time, SIGKILL to what is left of this run."""
        if self._child is None:
            return
        self._say("stopping")
        self._child.terminate()
        deadline = (self._stop_at or time.monotonic()) + self._peek.drain_s + STOP_S
        while self._child.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(StartError):
                self._read_events()
            if not all(_alive(process) for process in self._essential):
                break  # without Ray the driver would wait for it for a minute
            time.sleep(0.05)
        self._kill()
        self._remove_folder()
        self._say("stopped")

    def _kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._essential = []
        leftovers.end(leftovers.find(self._data), asks_first=False)


def _holder(port: int) -> psutil.Process | None:
    """Who listens on the port, as far as we may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and getattr(connection.laddr, "port", None) == port:
                return psutil.Process(connection.pid)
    return None


def _reason(message: str) -> str:
    """The last line of a traceback says what went wrong; the rest is in the log."""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason was given"


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
