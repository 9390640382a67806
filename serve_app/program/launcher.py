"""Starts the program, shows how it comes up, starts it again when Ray dies under it, and ends it.

    serve -> lock, leftovers, port -> driver (Ray, Serve) -> /ready -> watch --signal--> drain -> end
                                        ^                                |
                                        +---- Ray or the driver died ----+

The driver (driver.py) is a child, asked by SIGTERM to end; what is still alive after its time is killed, and only what this run started.
Knows no Ray. Tests: tests/fast/test_launcher.py, tests/ray.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import psutil

from serve_app import render
from serve_app.client import Client, ClientError
from serve_app.program import leftovers
from serve_app.program.child import Child
from serve_app.program.peek import Peek
from serve_app.program.profile import Profile, run_folder, write_wrapper
from serve_app.program.runfile import RunFile

STOP_S = 8.0  # beyond the drain: then SIGKILL; with the default drain the whole stop takes at most 15 s
POLL_S = 0.5  # while it starts, and between two looks at Ray's processes
WATCH_S = 3.0  # between two looks at the articles
REPLY_S = 3.0  # a server that is silent for longer is asked again; a stop waits no longer for it, either
SILENCE_S = 90.0  # without an answer of /ready, until the end of the log is shown
TAIL = 15  # lines of the log
MAX_FAILED_STARTS = 3  # in a row, of a program that has been ready
MAX_LOG_BYTES = 64_000_000
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DRIVER = (sys.executable, "-m", "serve_app.program.driver")
ESSENTIAL = ("gcs_server", "raylet")  # nothing of Ray's survives their death, and nothing of Ray's starts them again

Say = Callable[[str], None]


class StartError(Exception):
    """The program cannot start or has ended by itself; the message is for a person."""


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
        self._started = time.monotonic()
        self._data = peek.app.data_path
        self._log = self._data / "serve.log"
        self._run_file = RunFile(self._data)
        self._child: Child | None = None
        self._essential: list[psutil.Process] = []
        self._num_starts_left = 0  # until the program has been ready: what fails at once would fail again
        self.url = peek.url

    def run(self) -> None:
        """Serve until a signal comes.

        Raises:
            StartError: another run has the data folder, the port is taken, the configuration is wrong, or Serve cannot deploy it.
        """
        previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
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
            why = f"{error}; {self._tail()}" if isinstance(error, Died) else str(error)
            if self._num_starts_left == 0:
                raise StartError(why) from None
            self._num_starts_left -= 1
            self._say(f"{error}; starting it again")
            self._run_file.update(ready_at=None)
            self._kill()
            self._prepare_folder()
            self._started = time.monotonic()

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed: that ends the program in order, not in the middle of a line
            self._print(line)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _take_folder(self) -> None:
        other = self._run_file.begin(self.url, self._profile.name)
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
        shutil.rmtree(run_folder(self._data), ignore_errors=True)
        if self._profile.name == "fast":
            write_wrapper(run_folder(self._data))

    def _refuse_taken_port(self) -> None:
        with socket.socket(socket.AF_INET6 if ":" in self._peek.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._peek.host, self._peek.port))
            except OSError as error:
                raise StartError(
                    f"{self._peek.host}:{self._peek.port} cannot be used: {error.strerror}{_holder(self._peek.port)}; stop the program "
                    f"that has it, or set another http_options.port in {self._path}"
                ) from None

    def _spawn(self) -> None:
        if self._log.exists():
            self._log.replace(self._log.with_name("serve.log.1"))  # where the last run crashed, it says why
        environment = {**self._profile.environment, **os.environ, leftovers.MARK: str(self._data)}
        environment.pop("RAY_ADDRESS", None)  # this run has a Ray of its own
        self._say(f"starting Ray and Serve; log: {self._log}")
        self._child = Child([*self._program, str(self._path)], self._log, environment)

    def _wait_until_ready(self) -> None:
        said: set[str] = set()
        with Client(self.url, timeout_s=REPLY_S) as client:
            while not self._stop.is_set():
                self._read_events()
                self._fail_if_dead()
                if self._show_progress(client, said):
                    break
                self._stop.wait(POLL_S)
            if not self._stop.is_set():
                self._num_starts_left = MAX_FAILED_STARTS
                self._run_file.update(ready_at=time.time())
                self._say_ready(client)

    def _watch(self) -> None:
        assert self._child is not None
        self._essential = [process for process in leftovers.family(self._child.process) if _name(process) in ESSENTIAL]
        progress, look_at = "", 0.0
        with Client(self.url, timeout_s=REPLY_S) as client:
            while not self._stop.wait(POLL_S):
                self._read_events()
                self._fail_if_dead()
                if time.monotonic() >= look_at:
                    progress = self._show_articles(client, progress)
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
                self._say(f"{self._age()}  Ray is up" + (f"; dashboard http://{dashboard}/" if dashboard else ""))
            case {"kind": "serve"}:
                self._say(f"{self._age()}  Serve is up")
            case {"kind": "draining", "running": running}:
                self._say(f"waiting for {running} running answers")
            case {"kind": "failed", "message": message}:
                who = event.get("deployment", "the application")
                raise StartError(f"Serve cannot deploy {who}: {_reason(message)}; {self._tail()}")

    def _show_progress(self, client: Client, said: set[str]) -> bool:
        """Say what has not been said yet; True once the program is ready."""
        try:
            state = client.get("/ready")
        except ClientError:
            if "silence" not in said and time.monotonic() - self._started > SILENCE_S:
                said.add("silence")
                self._say(f"no answer from {self.url}/ready for {SILENCE_S:.0f} s, still waiting; {self._tail()}")
            return False
        for line in [*state["waiting_for"], *(f"error: {error}" for error in state["errors"])]:
            if line not in said:
                said.add(line)
                self._say(f"{self._age()}  {line}")
        for item in state["waiting_for"]:
            if ": failed: " in item:
                raise StartError(item.split(": failed: ", 1)[1])
        for item in state["waiting_for"]:
            if item.endswith(": deploy failed"):
                raise StartError(f"Serve cannot deploy {item.removesuffix(': deploy failed')}; {self._tail()}")
        return bool(state["ready"])

    def _say_ready(self, client: Client) -> None:
        self._say(f"ready after {time.monotonic() - self._started:.0f} s")
        with contextlib.suppress(ClientError):
            for model in client.get("/v1/models")["data"]:
                for line in render.model(model):
                    self._say(f"  {line}")
        self._say(f"  digest page   {self.url}/")
        self._say(f"  API           {self.url}/v1   (documented at {self.url}/docs)")
        self._say(f"  report        {self.url}/v1/report   or: frugal-serve report")
        run = self._run_file.read()
        if run is not None and run.dashboard:
            self._say(f"  Ray dashboard http://{run.dashboard}/   (asks for the token that `ray get-auth-token` prints)")
        self._say("Ctrl-C stops it.")

    def _show_articles(self, client: Client, before: str) -> str:
        try:
            counts: dict[str, int] = {}
            for feed in client.get("/v1/feeds")["data"]:
                for state, count in feed["num_articles"].items():
                    counts[state] = counts.get(state, 0) + count
        except ClientError:
            return before
        now = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if count)
        if now and now != before:
            self._say(f"articles: {now}")
        return now

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

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-TAIL:] if self._log.exists() else []
        return "\n".join((f"the end of {self._log}:", *lines))

    def _age(self) -> str:
        return f"{time.monotonic() - self._started:4.0f} s"

    def _end(self) -> None:
        """SIGTERM to the driver, which drains; after its time, SIGKILL to what is left of this run."""
        if self._child is None:
            return
        self._say("stopping")
        self._child.terminate()
        deadline = time.monotonic() + self._peek.drain_s + STOP_S
        while self._child.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(StartError):
                self._read_events()
            if not all(_alive(process) for process in self._essential):
                break  # without Ray the driver would wait for it for a minute
            time.sleep(0.05)
        self._kill()
        shutil.rmtree(run_folder(self._data), ignore_errors=True)
        self._say("stopped")

    def _kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._essential = []
        leftovers.end(leftovers.find(self._data), asks_first=False)


def background(path: pathlib.Path, arguments: Sequence[str], peek: Peek, say: Say) -> None:
    """Start a launcher of its own session that goes on without us; come back when the program is ready.

    Raises:
        StartError: it ended before that; it has said why.
    """
    log = peek.app.data_path / "launcher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        command = [sys.executable, "-m", "serve_app", "serve", str(path), *arguments]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    run_file = RunFile(peek.app.data_path)
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
            time.sleep(0.1)


def _holder(port: int) -> str:
    """Who has the port, as far as we may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and getattr(connection.laddr, "port", None) == port:
                process = psutil.Process(connection.pid)
                return f" by {process.name()} (process {process.pid})"
    return ""


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
