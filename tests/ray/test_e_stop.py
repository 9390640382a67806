"""It ends cleanly in both profiles, whatever is running, starts again, and goes on where it was."""

from __future__ import annotations

import os
import select
import signal
import socket

import httpx
import psutil
import pytest
import yaml

from serve_app.program import leftovers
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger
from tests.ray.load import Reader
from tests.ray.program import Program

NUM_STARTS = int(os.environ.get("FRUGAL_STARTS", "4"))  # CI takes 10, which would make `make test` too long
NUM_READERS = 8
LONG, SHORT = 1800, 24  # tokens: longer than any drain, and shorter
DRAIN_S = {LONG: 5.0, SHORT: 12.0}  # with the first the stop takes at most 15 s; the second gives a slow machine the time for its answers
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


@STOPS
def test_a_stop_lets_an_answer_end_in_time_or_gives_it_an_error(program: Program, profile: str, number: int, max_tokens: int) -> None:
    configure(program, DRAIN_S[max_tokens])
    restart(program, profile)
    readers = [Reader(program, f"Tell me about {profile} {number} {each}.", max_tokens) for each in range(NUM_READERS)]
    how_many = all if max_tokens == SHORT else any  # a batch of long ones does not end before the others begin
    program.wait_for(lambda: how_many(reader.begun.is_set() for reader in readers), 60)
    assert program.stop(number) == []  # within 15 s, and nothing is left
    for reader in readers:
        reader.join(10)
    expected = (True, None) if max_tokens == SHORT else (False, "cancelled")
    assert [(reader.done, reader.error) for reader in readers] == [expected] * NUM_READERS, [reader.events[-1:] for reader in readers]
    assert_ended_in_order(program)
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


def test_start_after_start_leaves_nothing(program: Program) -> None:
    for _ in range(NUM_STARTS):
        restart(program, "auto")
        ask_and_leave(program)
        assert program.stop() == []
        assert_ended_in_order(program)


def ask_and_leave(program: Program) -> None:
    """Callers that hang up while the deployments are asked: 100 moments within the some 20 ms that /ready takes."""
    for number in range(100):
        with socket.create_connection(("127.0.0.1", program.port)) as caller:
            caller.sendall(f"GET /ready HTTP/1.1\r\nHost: 127.0.0.1:{program.port}\r\n\r\n".encode())
            select.select([caller], [], [], number / 5000)


def assert_ended_in_order(program: Program) -> None:
    """Nothing is left, nothing went wrong on the way, and every Model replica closed its books."""
    data = program.folder / "data"
    assert leftovers.find(data) == []
    log = (data / "serve.log").read_text()
    assert "Traceback" not in log
    assert "AttributeError" not in log  # what the deployments are asked at a stop, they know
    database = Database(f"sqlite:///{data / 'frugal.db'}")
    last = Ledger(database).replicas()[-1]
    database.close()
    assert (last.phase, last.stopped_at is not None) == ("stopped", True)


def configure(program: Program, drain_s: float) -> None:
    """From the next start on."""
    config = yaml.safe_load(program.path.read_text())
    ingress = next(found for found in config["applications"][0]["deployments"] if found["name"] == "Ingress")
    ingress["user_config"]["drain_s"] = drain_s
    program.write(config)


def restart(program: Program, profile: str) -> None:
    if program.processes():
        program.stop()
    program.start(profile)
