"""Clients that ask all the time while a test breaks things, and remember what they were told."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import httpx

from tests.ray.program import Program, question

PAUSE_S = 0.05  # after a failure, so that a refused connection is not a busy loop


class Load:
    """`num_clients` threads, each its own question after the other. `answers` are question -> text; `failures` are counted by kind."""

    def __init__(self, program: Program, num_clients: int = 3) -> None:
        self._program = program
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(num_clients)]
        self.answers: dict[str, str] = {}
        self.failures: dict[str, int] = {}

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_new_answers(self, within_s: float) -> float:
        """Until a question that was begun after this call has been answered; the seconds it took."""
        began, first = time.monotonic(), next(self._numbers)
        self._program.wait_for(lambda: any(int(asked.split()[1]) > first for asked in list(self.answers)), within_s)
        return time.monotonic() - began

    def _ask_on(self) -> None:
        with httpx.Client(base_url=self._program.url, timeout=60, trust_env=False) as http:
            while not self._over.is_set():
                text = f"Question {next(self._numbers)} is which colour?"
                try:
                    reply = http.post("/v1/chat/completions", json=question(text, max_tokens=4))
                    if reply.status_code == 200:
                        with self._lock:
                            self.answers[text] = reply.json()["choices"][0]["message"]["content"]
                        continue
                    self._failed(_kind(reply))
                except httpx.HTTPError as error:
                    self._failed(type(error).__name__)
                self._over.wait(PAUSE_S)

    def _failed(self, kind: str) -> None:
        with self._lock:
            self.failures[kind] = self.failures.get(kind, 0) + 1


def _kind(reply: httpx.Response) -> str:
    try:
        return f"{reply.status_code} {reply.json()['error']['code']}"
    except (ValueError, KeyError):
        return f"{reply.status_code} {reply.text[:80]!r}"


class Reader(threading.Thread):
    """Reads a stream in the background; `events` are its JSON events, `ended` says whether [DONE] or an error came last."""

    def __init__(self, program: Program, text: str, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._body = question(text, max_tokens=max_tokens, stream=True, ignore_eos=True)
        self.begun = threading.Event()
        self.events: list[dict[str, Any]] = []
        self.done = False
        self.start()

    def run(self) -> None:
        for event in self._read():
            self.events.append(event)
            self.begun.set()

    def _read(self) -> Iterator[dict[str, Any]]:
        url = f"{self._program.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=self._body, timeout=120, trust_env=False) as reply:
            if reply.is_error:
                reply.read()
                yield reply.json()
                return
            for line in reply.iter_lines():
                self.done = self.done or line == "data: [DONE]"
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    @property
    def error(self) -> str | None:
        """The code of the error that ended it."""
        return self.events[-1]["error"]["code"] if self.events and "error" in self.events[-1] else None
