"""Cores and memory inside containers: the kernel's files of both versions of control groups, as they are seen from inside and outside."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace

import psutil
import pytest

from serve_app.resources import ControlGroups, free_memory, num_cores

GB = 1_000_000_000


def groups(folder: pathlib.Path, own: str, files: dict[str, str]) -> ControlGroups:
    """Control groups whose files these are."""
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return ControlGroups(folder / "mounted", folder / "own")


@pytest.fixture
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GB))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.usefixtures("_large_machine")
@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "150000 100000"}, 1),  # a second thread would be held back half of the time, and the first wait for it
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "9900000 100000"}, 16),
        ("0::/", {"cpu.max": "max 100000"}, 16),
        ("0::/pod/box", {"cpu.max": "max 100000", "pod/cpu.max": "300000 100000", "pod/box/cpu.max": "max 100000"}, 3),
        ("0::/pod/box", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "200000 100000"}, 2),
        ("0::/../elsewhere", {"cpu.max": "200000 100000"}, 2),
        ("4:memory:/\n2:cpu,cpuacct:/docker/1", {"cpu/docker/1/cpu.cfs_quota_us": "500000", "cpu/docker/1/cpu.cfs_period_us": "100000"}, 5),
        ("2:cpu:/docker/1", {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"}, 6),  # only its own group is mounted
        ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("2:cpuset:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("", {}, 16),
    ],
)
def test_no_more_threads_than_the_quota_lets_run(tmp_path: pathlib.Path, own: str, files: dict[str, str], cores: int) -> None:
    assert num_cores(groups(tmp_path, own, files)) == cores


@pytest.mark.usefixtures("_large_machine")
@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/", {"memory.max": str(8 * GB), "memory.current": str(5 * GB)}, 3 * GB),
        ("0::/", {"memory.max": str(8 * GB), "memory.current": str(7 * GB), "memory.stat": f"anon 5\ninactive_file {2 * GB}"}, 3 * GB),
        ("0::/", {"memory.max": str(8 * GB), "memory.current": str(9 * GB)}, 0),
        ("0::/", {"memory.max": "max", "memory.current": str(5 * GB)}, 64 * GB),
        ("0::/a/b", {"a/memory.max": str(4 * GB), "a/memory.current": str(GB), "a/b/memory.max": "max", "a/b/memory.current": "1"}, 3 * GB),
        (
            "4:memory:/x",
            {
                "memory/x/memory.limit_in_bytes": str(4 * GB),
                "memory/x/memory.usage_in_bytes": str(3 * GB),
                "memory/x/memory.stat": f"cache 1\ninactive_file 7\ntotal_inactive_file {GB}",
            },
            2 * GB,
        ),
        ("4:memory:/", {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": str(GB)}, 64 * GB),
        ("0::/", {"memory.max": str(8 * GB)}, 64 * GB),  # what is used cannot be read
        ("", {}, 64 * GB),
    ],
)
def test_no_more_memory_than_the_limit_leaves(tmp_path: pathlib.Path, own: str, files: dict[str, str], free: int) -> None:
    assert free_memory(groups(tmp_path, own, files)) == free


def test_on_this_machine_they_are_what_the_operating_system_says_at_most() -> None:
    assert 1 <= num_cores() <= (psutil.cpu_count() or 1)
    assert 0 < free_memory() <= psutil.virtual_memory().total
