"""What a person is told while the program comes up and runs, each thing once: what /ready waits for, the addresses, the articles.

Tests: tests/process/test_launcher.py.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable

from serve_app import render
from serve_app.client import Client, ClientError

SILENCE_S = 90.0  # without an answer of /ready, until the end of the log is shown
TAIL = 15  # lines of the log


class StartError(Exception):
    """The program cannot start or has ended by itself; the message is for a person."""


class Progress:
    """Of one run. `say` prints a line."""

    def __init__(self, url: str, log: pathlib.Path, say: Callable[[str], None]) -> None:
        self._url = url
        self._log = log
        self._say = say
        self._said: set[str] = set()
        self._articles = ""
        self._began = time.monotonic()

    def begin_again(self) -> None:
        """Another start."""
        self._said.clear()
        self._began = time.monotonic()

    def show(self, client: Client) -> bool:
        """Say what has not been said yet; True once the program is ready.

        Raises:
            StartError: it never will be.
        """
        try:
            state = client.get("/ready")
        except ClientError:
            if time.monotonic() - self._began > SILENCE_S:
                self._once("silence", f"no answer from {self._url}/ready for {SILENCE_S:.0f} s, still waiting; {self.tail()}")
            return False
        for line in [*state["waiting_for"], *(f"error: {error}" for error in state["errors"])]:
            self._once(line, f"{self.age()}  {line}")
        for item in state["waiting_for"]:
            if ": failed: " in item:
                raise StartError(item.split(": failed: ", 1)[1])
        for item in state["waiting_for"]:
            if item.endswith(": deploy failed"):
                raise StartError(f"Serve cannot deploy {item.removesuffix(': deploy failed')}; {self.tail()}")
        return bool(state["ready"])

    def show_ready(self, client: Client, dashboard: str) -> None:
        """What is loaded, and the addresses to open."""
        self._say(f"ready after {time.monotonic() - self._began:.0f} s")
        with contextlib.suppress(ClientError):
            for model in client.get("/v1/models")["data"]:
                for line in render.model(model):
                    self._say(f"  {line}")
        self._say(f"  digest page   {self._url}/")
        self._say(f"  API           {self._url}/v1   (documented at {self._url}/docs)")
        self._say(f"  report        {self._url}/v1/report   or: frugal-serve report")
        if dashboard:
            self._say(f"  Ray dashboard http://{dashboard}/   (asks for the token that `ray get-auth-token` prints)")
        self._say("Ctrl-C stops it.")

    def show_articles(self, client: Client) -> None:
        """How many are in which state, where that has changed."""
        try:
            counts: dict[str, int] = {}
            for feed in client.get("/v1/feeds")["data"]:
                for state, count in feed["num_articles"].items():
                    counts[state] = counts.get(state, 0) + count
        except ClientError:
            return
        now = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()) if count)
        if now and now != self._articles:
            self._say(f"articles: {now}")
        self._articles = now

    def tail(self) -> str:
        """The end of the log."""
        lines = self._log.read_text(errors="replace").splitlines()[-TAIL:] if self._log.exists() else []
        return "\n".join((f"the end of {self._log}:", *lines))

    def age(self) -> str:
        """Seconds since the start began, as a column."""
        return f"{time.monotonic() - self._began:4.0f} s"

    def _once(self, what: str, line: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._say(line)
