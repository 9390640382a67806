"""What a killed run left is found by its mark and its executable; nothing else is touched."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from serve_app.program import leftovers

Start = Callable[..., psutil.Process]
WAITS = "import signal; print('x', flush=True); signal.pause()"
IS_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); signal.pause()"
HAS_A_CHILD = (
    "import os, signal, subprocess, sys; "
    "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], env={}); print('x', flush=True); signal.pause()"
)


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(program: str, mark: object = None, executable: str = sys.executable) -> psutil.Process:
        environment = {**os.environ, **({leftovers.MARK: str(mark)} if mark else {})}
        process = subprocess.Popen([executable, "-c", program], stdout=subprocess.PIPE, env=environment)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return psutil.Process(process.pid)

    yield begin
    for process in started:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def test_only_what_has_the_mark_of_this_folder_is_found(start: Start, tmp_path: pathlib.Path) -> None:
    ours = start(WAITS, tmp_path)
    start(WAITS, tmp_path / "other")
    start(WAITS)
    assert leftovers.find(tmp_path) == [ours]


def test_another_program_with_the_mark_is_left_alone(start: Start, tmp_path: pathlib.Path) -> None:
    start("echo x; exec sleep 60", tmp_path, executable="/bin/sh")
    assert leftovers.find(tmp_path) == []


def test_children_that_lost_the_mark_belong_to_it(start: Start, tmp_path: pathlib.Path) -> None:
    parent = start(HAS_A_CHILD, tmp_path)
    assert set(leftovers.find(tmp_path)) == {parent, *parent.children()}


def test_this_process_and_its_ancestors_are_never_found(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    program = f"import pathlib; from serve_app.program import leftovers; print(leftovers.find(pathlib.Path({str(tmp_path)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, leftovers.MARK: str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_what_ignores_the_request_to_end_is_killed(start: Start, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "TERMINATE_S", 0.2)
    found = [start(WAITS, tmp_path), start(IS_DEAF, tmp_path)]
    assert leftovers.described(found) == ", ".join(sorted(f"{process.name()} ({process.pid})" for process in found))
    assert leftovers.end(found) == []
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)
