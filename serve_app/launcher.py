"""Starts the program, shows how it comes up, and ends it: `serve run` as a child, watched over HTTP.

The child gets SIGINT, which Serve answers with a graceful shutdown; what is still alive after `STOP_S` is killed, by id, and only what this
run started. Knows no Ray but the words in which Serve logs a failure. Tests: tests/fast/test_launcher.py, tests/ray.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

import psutil

from serve_app import render
from serve_app.client import Client, ClientError
from serve_app.config_file import CheckedConfig

STOP_S = 11.0  # then SIGKILL; the whole stop takes at most 15 s
POLL_S = 0.5  # while it starts
WATCH_S = 3.0  # afterwards
REPLY_S = 3.0  # a server that is silent for longer is asked again; a stop waits no longer for it, either
SILENCE_S = 90.0  # without an answer of /ready, until the end of the log is shown
TAIL = 15  # lines of the log
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}

SERVE_RUN = (sys.executable, "-c", "from ray.serve.scripts import cli; cli()", "run")

# What Serve's controller (2.60: ray/serve/_private/application_state.py) logs when it gives an application up. Only Ingress tells more, and
# where it is Ingress or `build` that failed there is nobody to ask.
DASHBOARD = re.compile(r"View the dashboard at \S*?((?:\d+\.){3}\d+:\d+)")  # 8265, or the next free port
GIVEN_UP = re.compile(
    r"Deploying app '.*' failed with exception:|Runtime env setup for app '.*' failed:|Failed to update the deployments \["
    r"|Unexpected error occurred while (?:deploying application|applying config for application)"
)

Say = Callable[[str], None]


class StartError(Exception):
    """The program cannot start or has ended by itself; the message is for a person."""


class Launcher:
    """One run of `serve run` on a checked configuration. `say` prints a line; `program` takes the configuration's path as an argument."""

    def __init__(self, path: pathlib.Path, config: CheckedConfig, say: Say, program: Sequence[str] = SERVE_RUN) -> None:
        self._path = path
        self._config = config
        self._print = say
        self._program = program
        self._stop = threading.Event()
        self._started = time.monotonic()
        self._log = config.app.data_path / "serve.log"
        self._child: subprocess.Popen[bytes] | None = None
        host = LOCAL.get(config.host, config.host)
        self.url = f"http://{host}:{config.port}"

    def run(self) -> None:
        """Serve until a signal comes.

        Raises:
            StartError: the port is taken, Serve cannot deploy the application, or the program ended by itself.
        """
        previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            self._refuse_taken_port()
            self._spawn()
            self._watch()
        finally:
            self._end()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed: that ends the program in order, not in the middle of a line
            self._print(line)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _refuse_taken_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._config.host, self._config.port))
            except OSError as error:
                raise StartError(
                    f"{self._config.host}:{self._config.port} cannot be used: {error.strerror}; stop the program that has it, "
                    f"or set another http_options.port in {self._path}"
                ) from None

    def _spawn(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._log.exists():
            self._log.replace(self._log.with_name("serve.log.1"))  # where the last run crashed, it says why
        # Ray sends usage statistics to its makers unless it is told not to; say so yourself to send them.
        environment = {"RAY_USAGE_STATS_ENABLED": "0", **os.environ, "PYTHONUNBUFFERED": "1", "RAY_COLOR_PREFIX": "0"}
        self._say(f"starting Ray and Serve; log: {self._log}")
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches only us, and we end the child in order.
            self._child = subprocess.Popen(
                [*self._program, str(self._path)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )

    def _watch(self) -> None:
        said: set[str] = set()
        with Client(self.url, timeout_s=REPLY_S) as client:
            while not self._stop.is_set():
                if self._show_progress(client, said):
                    break
                self._stop.wait(POLL_S)
            if not self._stop.is_set():
                self._say_ready(client)
            progress = ""
            while not self._stop.is_set():
                self._fail_if_ended()
                progress = self._show_articles(client, progress)
                self._stop.wait(WATCH_S)

    def _show_progress(self, client: Client, said: set[str]) -> bool:
        """Say what has not been said yet; True once the program is ready."""
        self._fail_if_ended()
        try:
            state = client.get("/ready")
        except ClientError:
            self._show_silence(said)
            return False
        for line in [*state["waiting_for"], *(f"error: {error}" for error in state["errors"])]:
            if line not in said:
                said.add(line)
                self._say(f"{time.monotonic() - self._started:4.0f} s  {line}")
        for item in state["waiting_for"]:
            if ": failed: " in item:
                raise StartError(item.split(": failed: ", 1)[1])
        for item in state["waiting_for"]:
            if item.endswith(": deploy failed"):
                raise StartError(f"Serve cannot deploy {item.removesuffix(': deploy failed')}; {self._tail()}")
        return bool(state["ready"])

    def _show_silence(self, said: set[str]) -> None:
        """Nobody answers /ready yet: an end where the log says that nobody will, else once a line about it."""
        if GIVEN_UP.search(self._log.read_text(errors="replace")):
            raise StartError(f"Serve cannot deploy the application; {self._tail()}")
        if "silence" not in said and time.monotonic() - self._started > SILENCE_S:
            said.add("silence")
            self._say(f"no answer from {self.url}/ready for {SILENCE_S:.0f} s, still waiting; {self._tail()}")

    def _say_ready(self, client: Client) -> None:
        self._say(f"ready after {time.monotonic() - self._started:.0f} s")
        with contextlib.suppress(ClientError):
            for model in client.get("/v1/models")["data"]:
                for line in render.model(model):
                    self._say(f"  {line}")
        self._say(f"  digest page   {self.url}/")
        self._say(f"  API           {self.url}/v1   (documented at {self.url}/docs)")
        self._say(f"  report        {self.url}/v1/report   or: frugal-serve report")
        if found := DASHBOARD.search(self._log.read_text(errors="replace")):
            self._say(f"  Ray dashboard http://{found[1]}/   (asks for the token that `ray get-auth-token` prints)")
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

    def _fail_if_ended(self) -> None:
        assert self._child is not None
        if self._child.poll() is not None:
            raise StartError(f"Serve ended by itself with {self._child.returncode}; {self._tail()}")

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-TAIL:]
        return "\n".join((f"the end of {self._log}:", *lines))

    def _end(self) -> None:
        """SIGINT to the child; after STOP_S, SIGKILL to what is left of this run."""
        if self._child is None:
            return
        self._say("stopping")
        family = _descendants(self._child.pid)
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
            try:
                self._child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                family |= _descendants(self._child.pid)
        _kill(family)
        self._child.wait()
        self._say("stopped")


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return {parent, *parent.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _kill(processes: set[psutil.Process]) -> None:
    """psutil knows a process by its id and birth, so a reused id is never hit."""
    _, alive = psutil.wait_procs(processes, timeout=1)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=2)
