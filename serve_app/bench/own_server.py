"""A server for one benchmark, where none runs: the program on a configuration, on a free port, with a folder of its own and without feeds.

It takes the quantised weights of the configured `data_dir` (and leaves them there), nothing else. It is always stopped again: after Ctrl-C,
after SIGTERM, after an error. Tests: tests/process/test_bench_own_server.py.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import psutil
import yaml

from serve_app.client import Client, ClientError
from serve_app.config_file import IMPORT_PATH, CheckedConfig

OUTSIDE = ("FRUGAL_DATABASE_URL", "FRUGAL_ANSWERS_URL")
PROGRAM = (sys.executable, "-m", "serve_app", "serve")
START_S = 900.0  # the first start quantises the weights
STOP_S = 20.0  # the launcher ends within 15 s
POLL_S = 0.5
REPLY_S = 5.0
TAIL = 15  # lines of what it said

Say = Callable[[str], None]


class OwnServerError(Exception):
    """It does not come up; the message is for a person."""


@contextlib.contextmanager
def own_server(config: CheckedConfig, say: Say, program: Sequence[str] = PROGRAM) -> Iterator[str]:
    """The address of a server that is ready; stopped when the block ends. Main thread only, for the signals.

    Raises:
        OwnServerError: it ended by itself or is not ready within START_S.
    """
    with tempfile.TemporaryDirectory(prefix="frugal-bench-") as name, _terminated_like_interrupted():
        folder = pathlib.Path(name)
        port = _free_port()
        data = _data_folder(folder, config.app.data_path)
        path = folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(quiet(config.data, port)))
        with (folder / "server.log").open("wb") as log:
            say(f"starting a server of its own on port {port}")
            # A session of its own: Ctrl-C in the terminal reaches only us, and we stop the child in order.
            child = subprocess.Popen(
                [*program, str(path)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=_environment(data),
                start_new_session=True,
            )
            try:
                url = f"http://127.0.0.1:{port}"
                _wait_until_ready(url, child, folder / "server.log")
                yield url
            finally:
                say("stopping it")
                _stop(child)


def answers(url: str) -> bool:
    """True where a server runs already, ready or not."""
    try:
        with Client(url, timeout_s=REPLY_S) as client:
            return "ready" in client.get("/ready")
    except ClientError:
        return False


def quiet(data: dict[str, Any], port: int) -> dict[str, Any]:
    """The same configuration on another port of this machine alone, without feeds, which would disturb, and without an outside store."""
    changed = copy.deepcopy(data)
    changed["http_options"] = {**changed.get("http_options", {}), "host": "127.0.0.1", "port": port}
    application = next(entry for entry in changed["applications"] if entry["import_path"] == IMPORT_PATH)
    for outside in ("database_url", "answers_url"):
        application.get("args", {}).pop(outside, None)
    deployments = application.setdefault("deployments", [])
    feeds = next((entry for entry in deployments if entry["name"] == "Feeds"), None)
    if feeds is None:
        deployments.append(feeds := {"name": "Feeds"})
    feeds["user_config"] = {**(feeds.get("user_config") or {}), "feeds": []}
    return changed


def _environment(data: pathlib.Path) -> dict[str, str]:
    """Ours, with the folder of its own and without the database of the program in production, which the variable would bring back."""
    return {**{name: value for name, value in os.environ.items() if name not in OUTSIDE}, "FRUGAL_DATA_DIR": str(data)}


def _data_folder(folder: pathlib.Path, configured: pathlib.Path) -> pathlib.Path:
    """A new data folder, in which `models` is the configured one's: quantising takes a minute, and the copies are safe to share."""
    data, models = folder / "data", configured / "models"
    data.mkdir()
    models.mkdir(parents=True, exist_ok=True)
    (data / "models").symlink_to(models, target_is_directory=True)
    return data


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, child: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    deadline = time.monotonic() + START_S
    with Client(url, timeout_s=REPLY_S) as client:
        while True:
            if child.poll() is not None:
                raise OwnServerError(f"the server ended with {child.returncode}; {_tail(log)}")
            with contextlib.suppress(ClientError):
                if client.get("/ready")["ready"]:
                    return
            if time.monotonic() > deadline:
                raise OwnServerError(f"the server is not ready after {START_S:.0f} s; {_tail(log)}")
            time.sleep(POLL_S)


def _tail(log: pathlib.Path) -> str:
    return "\n".join(("it said last:", *log.read_text(errors="replace").splitlines()[-TAIL:]))


def _stop(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, which the launcher answers with an orderly end; what is left after STOP_S is killed by id. Deaf to a second Ctrl-C."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        family = _family(child.pid)
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
        for process in psutil.wait_procs(family, timeout=1)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM would end this process without stopping the server."""

    def interrupt(_number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # ignored, as in what a script starts with &
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
