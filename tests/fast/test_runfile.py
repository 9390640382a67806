"""One run per data folder; others find it while it lives, and never take another process for it."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from serve_app.program.runfile import Run, RunFile, birth, stop

HOLDS = """
import pathlib, signal, sys
from serve_app.program.runfile import RunFile
run_file = RunFile(pathlib.Path(sys.argv[1]))
print(run_file.begin("http://127.0.0.1:1", "fast"), flush=True)
signal.pause()
"""


@pytest.fixture
def holder(tmp_path: pathlib.Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    return process


def test_a_run_that_lives_is_found_and_blocks_another(tmp_path: pathlib.Path, holder: subprocess.Popen[str]) -> None:
    other = RunFile(tmp_path).begin("http://127.0.0.1:2", "plain")
    assert other is not None
    assert (other.pid, other.url, other.profile) == (holder.pid, "http://127.0.0.1:1", "fast")
    assert stop(other, within_s=10)
    holder.wait()


def test_a_run_that_was_killed_blocks_nobody(tmp_path: pathlib.Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    run_file = RunFile(tmp_path)
    assert run_file.read() is None
    assert run_file.begin("http://127.0.0.1:2", "plain") is None
    run_file.end()
    assert not (tmp_path / "run.json").exists()


def test_what_a_run_learns_is_there_for_the_others(tmp_path: pathlib.Path) -> None:
    run_file = RunFile(tmp_path)
    run_file.begin("http://127.0.0.1:2", "plain")
    run_file.update(dashboard="127.0.0.1:8265", ready_at=7.0)
    found = RunFile(tmp_path).read()
    assert found is not None
    assert (found.dashboard, found.ready_at) == ("127.0.0.1:8265", 7.0)
    run_file.end()


def test_an_id_that_another_process_has_by_now_is_not_taken_for_the_run() -> None:
    own = psutil.Process()
    run = Run(own.pid, birth(own) - 100, "", "")
    assert run.process() is None
    assert stop(run, within_s=0)  # and nothing is signalled


def test_a_birth_stays_the_same_and_differs_between_processes(holder: subprocess.Popen[str]) -> None:
    assert birth(psutil.Process()) == birth(psutil.Process()) != birth(psutil.Process(holder.pid))
    holder.kill()
    holder.wait()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}', json.dumps({"surprise": 1})])
def test_a_torn_file_is_no_run(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert RunFile(tmp_path).read() is None


def test_a_run_that_does_not_end_is_told() -> None:
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    started = time.monotonic()
    assert not stop(Run(process.pid, birth(psutil.Process(process.pid)), "", ""), within_s=0.3)
    assert time.monotonic() - started < 5
    process.send_signal(signal.SIGKILL)
    process.wait()
