"""It ends cleanly in both profiles, whatever is running, starts again, and goes on where it was."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from serve_app.program import leftovers
from tests.ray.program import Program, question

NUM_STARTS = 10
LONG, SHORT = 1800, 24  # tokens: longer than any drain, and shorter
STOPS = pytest.mark.parametrize(
    ("profile", "number", "max_tokens"),
    [
        ("fast", signal.SIGINT, LONG),
        ("fast", signal.SIGTERM, SHORT),
        ("plain", signal.SIGTERM, LONG),
        ("plain", signal.SIGHUP, SHORT),
    ],
    ids=["fast Ctrl-C long", "fast SIGTERM short", "plain SIGTERM long", "plain closed terminal short"],
)


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
            for line in reply.iter_lines():
                self.done = self.done or line == "data: [DONE]"
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

    @property
    def error(self) -> str | None:
        """The code of the error that ended it."""
        return self.events[-1]["error"]["code"] if self.events and "error" in self.events[-1] else None


@STOPS
def test_a_stop_lets_an_answer_end_in_time_or_gives_it_an_error(program: Program, profile: str, number: int, max_tokens: int) -> None:
    restart(program, profile)
    reader = Reader(program, f"Tell me about {profile} {number}.", max_tokens)
    assert reader.begun.wait(60)
    assert program.stop(number) == []  # within 15 s, and nothing is left
    reader.join(10)
    assert (reader.done, reader.error) == ((True, None) if max_tokens == SHORT else (False, "cancelled"))
    assert leftovers.find(program.folder / "data") == []
    assert [at for at in psutil.net_connections("tcp") if at.status == "LISTEN" and getattr(at.laddr, "port", 0) == program.port] == []


def test_a_second_start_knows_everything(program: Program) -> None:
    restart(program, "auto")
    answered = program.ask("What survives a restart?")
    done = {article["id"]: article["summary"]["text"] for article in program.articles(state="done")}
    assert program.stop(signal.SIGINT) == []
    with pytest.raises(httpx.ConnectError):
        program.http.get("/health")
    program.start()
    again = program.ask("What survives a restart?")
    assert (again.headers["x-cache"], again.json()["choices"]) == ("hit", answered.json()["choices"])
    assert {article["id"]: article["summary"]["text"] for article in program.articles(state="done")} == done


def test_stop_status_and_logs_find_a_run_in_the_background(program: Program) -> None:
    assert program.stop() == []
    config = str(program.path)
    started = program.cli("serve", config, "--background")
    assert started.returncode == 0, started.stdout + started.stderr
    assert "it goes on as process" in started.stdout
    second = program.cli("serve", config)
    assert (second.returncode, "works on" in second.stderr, "frugal-serve stop" in second.stderr) == (2, True, True)
    status = program.cli("status")
    assert (status.returncode, status.stdout.splitlines()[0]) == (0, "ready"), status.stderr
    assert {"Model        healthy      1 of 1 replicas", "Feeds        healthy      1 of 1 replicas"} <= set(status.stdout.splitlines())
    assert "Started Serve" in program.cli("logs", config, "-n", "500").stdout
    stopped = program.cli("stop", config)
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n"), stopped.stderr
    assert leftovers.find(program.folder / "data") == []
    assert program.cli("stop", config).stdout == f"nothing runs on {program.folder / 'data'}\n"


def test_ten_starts_and_stops_leave_nothing(program: Program) -> None:
    for _ in range(NUM_STARTS):
        program.start()
        assert program.stop() == []
        assert leftovers.find(program.folder / "data") == []
    assert "Traceback" not in (program.folder / "out.log").read_text()


def restart(program: Program, profile: str) -> None:
    if program.processes():
        program.stop()
    program.start(profile)
