"""What a person is told while the program comes up, with small programs in the place of Serve; and that it can always be stopped."""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import pytest

from serve_app import launcher
from serve_app.config_file import CheckedConfig
from serve_app.launcher import Launcher, StartError
from serve_app.settings import AppSettings
from tests.ray.program import free_port

# The words of Serve 2.60, as its controller's log reaches the terminal.
BUILD_FAILED = (
    "(ServeController pid=7) ERROR controller 7 -- Deploying app 'frugal-serve' failed with exception:\nModuleNotFoundError: no x"
)
INGRESS_FAILED = "(ServeController pid=7) ERROR controller 7 -- Failed to update the deployments ['Ingress']."

SAYS_AND_WAITS = "import signal, sys; print({text!r}, flush=True); signal.pause()"
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


class Run:
    """One run of the launcher; `lines` is what it said."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.app = AppSettings(data_dir=str(folder))
        self.port = free_port()
        self.lines: list[str] = []

    def on(self, program: str, **values: object) -> None:
        """With a Python program in Serve's place."""
        command = (sys.executable, "-c", program.format(port=self.port, **values))
        config = CheckedConfig({}, self.app, {}, "127.0.0.1", self.port)
        Launcher(pathlib.Path("serve_config.yaml"), config, self.lines.append, command).run()

    def on_answer(self, **state: Any) -> None:
        """With a program that is never ready, and says this."""
        self.on(ANSWERS, body=json.dumps({"ready": False, "waiting_for": [], "errors": [], **state}))


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize("text", [BUILD_FAILED, INGRESS_FAILED])
def test_an_application_that_serve_gives_up_ends_the_start_with_the_end_of_the_log(run: Run, text: str) -> None:
    with pytest.raises(StartError) as caught:
        run.on(SAYS_AND_WAITS, text=f"an earlier line\n{text}")
    assert (
        str(caught.value) == f"Serve cannot deploy the application; the end of {run.app.data_path / 'serve.log'}:\nan earlier line\n{text}"
    )
    assert run.lines[-2:] == ["stopping", "stopped"]


def test_a_deployment_that_failed_ends_the_start_with_its_message_and_the_end_of_the_log(run: Run) -> None:
    with pytest.raises(StartError, match=r"^Serve cannot deploy Feeds; the end of .*serve\.log:\nthe log's last line"):
        run.on_answer(waiting_for=["AnswerCache: updating", "Feeds: deploy failed"], errors=["Feeds: the disk is full"])
    assert [line[len("   1 s  ") :] for line in run.lines[1:4]] == [
        "AnswerCache: updating",
        "Feeds: deploy failed",
        "error: Feeds: the disk is full",
    ]


def test_a_model_that_failed_says_why_before_anything_else_does(run: Run) -> None:
    with pytest.raises(StartError, match=r"^no such file; correct model\.source$"):
        run.on_answer(waiting_for=["Model: deploy failed", "model tiny: failed: no such file; correct model.source"])


def test_a_long_silence_is_told_once_with_the_end_of_the_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "SILENCE_S", 0.0)
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


def test_the_log_of_the_run_before_is_kept(run: Run) -> None:
    for text in ("first", "second", "third"):
        with pytest.raises(StartError, match=text):
            run.on("print({text!r})", text=text)
    assert [(run.app.data_path / name).read_text() for name in ("serve.log", "serve.log.1")] == ["third\n", "second\n"]
