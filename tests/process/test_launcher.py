"""What a person is told while the program comes up, with small programs in the driver's place; and that it can always be stopped."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import sys
import time
from typing import Any

import pytest

from serve_app.program import launcher, progress
from serve_app.program.launcher import Launcher, StartError
from serve_app.program.peek import Peek
from serve_app.program.profile import Profile
from serve_app.settings import AppSettings
from tests.ray.program import free_port

TELLS = """
import json, os, signal, sys
with os.fdopen(int(sys.argv[2]), "w") as pipe:
    for event in {events!r}:
        print(json.dumps(event), file=pipe, flush=True)
print({text!r}, flush=True)
signal.pause()
"""
ANSWERS = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {body!r}.encode()
        self.send_response(503)
        self.end_headers()
        self.wfile.write(body)
print("the log's last line", flush=True)
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
IS_SILENT_AT_CTRL_C = """
import os, signal, socket, time
listener = socket.create_server(("127.0.0.1", {port}))
connection, _ = listener.accept()
os.kill(os.getppid(), signal.SIGINT)
time.sleep(30)
"""
IS_DEAF_AT_SIGTERM = """
import os, signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", {port}))
connection, _ = listener.accept()
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(60)
"""
IS_READY_ONCE = """
import http.server, json, os, pathlib, signal
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {{"/ready": {{"ready": True, "waiting_for": [], "errors": []}}}}.get(self.path, {{"data": []}})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
        if self.path == "/v1/feeds":
            starts = pathlib.Path({starts!r})
            starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
            if len(starts.read_text()) == 3:
                os.kill(os.getppid(), signal.SIGTERM)
            else:
                os.kill(os.getpid(), signal.SIGKILL)
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


class Run:
    """One run of the launcher; `lines` is what it said."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.app = AppSettings(data_dir=str(folder))
        self.port = free_port()
        self.lines: list[str] = []

    def on(self, program: str, drain_s: float = 0.0, **values: object) -> None:
        """With a Python program in the driver's place."""
        command = (sys.executable, "-c", program.format(port=self.port, **values))
        peek = Peek(self.app, "127.0.0.1", self.port, drain_s)
        Launcher(pathlib.Path("serve_config.yaml"), peek, Profile("plain", "plain", {}), self.lines.append, command).run()

    def on_answer(self, **state: Any) -> None:
        """With a program that is never ready, and says this."""
        self.on(ANSWERS, body=json.dumps({"ready": False, "waiting_for": [], "errors": [], **state}))


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return Run(tmp_path)


def test_mistakes_of_the_configuration_are_told_line_by_line(run: Run) -> None:
    with pytest.raises(StartError) as caught:
        run.on(TELLS, events=[{"kind": "refused", "problems": ["http_options.prt: unknown key", "x: y"]}], text="")
    assert str(caught.value) == "serve_config.yaml: http_options.prt: unknown key\nserve_config.yaml: x: y"


def test_an_application_that_serve_gives_up_ends_the_start_with_the_reason_and_the_end_of_the_log(run: Run) -> None:
    message = "The deployment failed\nTraceback:\n  line\nModuleNotFoundError: no x\n"
    with pytest.raises(StartError) as caught:
        run.on(TELLS, events=[{"kind": "serve"}, {"kind": "failed", "deployment": "Feeds", "message": message}], text="its last line")
    said = str(caught.value)
    assert said.startswith("Serve cannot deploy Feeds: ModuleNotFoundError: no x; the end of ")
    assert run.lines[-2:] == ["stopping", "stopped"]


def test_phases_are_told_as_they_come(run: Run) -> None:
    events = [{"kind": "ray", "dashboard": "127.0.0.1:8265", "session": "/tmp/x"}, {"kind": "serve"}, {"kind": "failed", "message": ""}]
    with pytest.raises(StartError, match="cannot deploy the application: no reason was given"):
        run.on(TELLS, events=events, text="")
    assert [line[len("   1 s  ") :] for line in run.lines[2:4]] == ["Ray is up; dashboard http://127.0.0.1:8265/", "Serve is up"]


def test_a_deployment_that_failed_ends_the_start_with_its_message_and_the_end_of_the_log(run: Run) -> None:
    with pytest.raises(StartError, match=r"^Serve cannot deploy Feeds; the end of .*serve\.log:\nthe log's last line"):
        run.on_answer(waiting_for=["AnswerCache: updating", "Feeds: deploy failed"], errors=["Feeds: the disk is full"])
    assert [line[len("   1 s  ") :] for line in run.lines[2:5]] == [
        "AnswerCache: updating",
        "Feeds: deploy failed",
        "error: Feeds: the disk is full",
    ]


def test_a_model_that_failed_says_why_before_anything_else_does(run: Run) -> None:
    with pytest.raises(StartError, match=r"^no such file; correct model\.source$"):
        run.on_answer(waiting_for=["Model: deploy failed", "model tiny: failed: no such file; correct model.source"])


def test_a_long_silence_is_told_once_with_the_end_of_the_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE_S", 0.0)
    monkeypatch.setattr(launcher, "POLL_S", 0.05)
    with pytest.raises(StartError, match="ended by itself with 0"):
        run.on("import time; print('still importing', flush=True); time.sleep(0.7)")
    told = [line for line in run.lines if "no answer from" in line]
    assert len(told) == 1
    assert told[0].startswith(f"no answer from http://127.0.0.1:{run.port}/ready for 0 s, still waiting; the end of ")


def test_ctrl_c_does_not_wait_for_a_server_that_is_silent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "REPLY_S", 0.5)
    started_at = time.monotonic()
    run.on(IS_SILENT_AT_CTRL_C)
    assert time.monotonic() - started_at < 15
    assert run.lines[-2:] == ["stopping", "stopped"]


def test_a_stop_is_over_10_seconds_after_the_drain_although_the_server_hangs_and_the_driver_is_deaf(run: Run) -> None:
    started_at = time.monotonic()
    run.on(IS_DEAF_AT_SIGTERM, drain_s=0.0)  # with the default of 5 s: 15
    assert time.monotonic() - started_at < 10.5  # half a second for the start


def test_what_was_ready_and_died_is_started_again(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(launcher, "POLL_S", 0.05)
    run.on(IS_READY_ONCE, starts=str(tmp_path / "starts"))
    assert (tmp_path / "starts").read_text() == "xxx"
    assert run.lines.count("the program ended by itself with -9; starting it again") == 2
    assert run.lines[-2:] == ["stopping", "stopped"]


def test_the_log_of_the_run_before_is_kept(run: Run) -> None:
    for text in ("first", "second", "third"):
        with pytest.raises(StartError, match=text):
            run.on("print({text!r})", text=text)
    assert [(run.app.data_path / name).read_text() for name in ("serve.log", "serve.log.1")] == ["third\n", "second\n"]


def test_a_long_log_is_begun_anew_while_the_program_goes_on_writing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "MAX_LOG_BYTES", 10)
    log = run.app.data_path / "serve.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"more than ten bytes\n")
        Launcher(pathlib.Path("x"), Peek(run.app, "127.0.0.1", run.port, 0.0), Profile("plain", "", {}), print)._trim_log()
        writer.write(b"after\n")
    assert (log.read_text(), log.with_name("serve.log.1").read_text()) == ("after\n", "more than ten bytes\n")


def test_a_taken_port_is_told_with_the_program_that_has_it(run: Run) -> None:
    with socket.create_server(("127.0.0.1", run.port)), pytest.raises(StartError) as caught:
        run.on("")
    assert f"127.0.0.1:{run.port} cannot be used: Address already in use by " in str(caught.value)
    assert f"({os.getpid()}); stop the program that has it, or set another http_options.port" in str(caught.value)


def test_a_second_run_on_the_same_data_is_refused_and_told_how_to_end_the_first(run: Run) -> None:
    second = Run(run.app.data_path)
    starts_another = "import os, signal; os.kill(os.getppid(), signal.SIGUSR1); signal.pause()"
    refused: list[str] = []

    def start_another(*_: object) -> None:
        try:
            second.on("")
        except StartError as error:
            refused.append(str(error))
        os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGUSR1, start_another)
    try:
        run.on(starts_another)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert refused == [
        f"process {os.getpid()} at http://127.0.0.1:{run.port} works on {run.app.data_path} already; `frugal-serve stop` ends it, "
        "or set another args.data_dir"
    ]
