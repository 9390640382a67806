"""What this process may use: the machine's cores and memory, and of them no more than its container's limits.

Inside a container the operating system shows the host's cores and memory. Who goes by them starts more threads than may run at once, and
is killed in the middle of loading without a word. Limits are those of control groups, version 2 (cpu.max, memory.max:
https://docs.kernel.org/admin-guide/cgroup-v2.html) and version 1. Knows no model. Tests: tests/fast/test_resources.py.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The control groups that a process is in: `mounted` is where the kernel shows all of them, `own` which they are."""

    mounted: pathlib.Path = pathlib.Path("/sys/fs/cgroup")
    own: pathlib.Path = pathlib.Path("/proc/self/cgroup")

    def cores(self) -> float | None:
        """The least quota of processor time, in cores; None where there is none."""
        quotas = [quota for folder in self._folders("cpu") for quota in (_quota(folder),) if quota is not None]
        return min(quotas, default=None)

    def free_bytes(self) -> int | None:
        """The least memory that is left below a limit, page cache that can be dropped counted as left; None where there is no limit."""
        rooms = [room for folder in self._folders("memory") for room in (_room(folder),) if room is not None]
        return min(rooms, default=None)

    def _folders(self, controller: str) -> Iterator[pathlib.Path]:
        """From the innermost group outwards. In a container the path may be the host's, and its own group is mounted as the root."""
        for line in _lines(self.own):
            _, controllers, path = line.split(":", 2)
            names = controllers.split(",")
            if controllers and controller not in names:
                continue
            root = self.mounted / controller if controllers else self.mounted
            inner = root / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def num_cores(groups: ControlGroups | None = None) -> int:
    """Threads that can run at once: the cores that this process may use, and no more than its quota, rounded down. A team of threads
    of which one is held back by the quota waits for it after every product."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = (groups or ControlGroups()).cores()
    return cores if quota is None else max(1, min(cores, int(quota)))


def free_memory(groups: ControlGroups | None = None) -> int:
    """Bytes that this process can still take without swapping, or being killed for it."""
    free = int(psutil.virtual_memory().available)
    room = (groups or ControlGroups()).free_bytes()
    return free if room is None else min(free, room)


def _quota(folder: pathlib.Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    if not (quota.isdigit() and period.isdigit()):  # "max", or -1: no limit
        return None
    return int(quota) / int(period)


def _room(folder: pathlib.Path) -> int | None:
    limit, used, cached = _text(folder / "memory.max"), _text(folder / "memory.current"), "inactive_file"
    if not limit:
        limit, used, cached = _text(folder / "memory.limit_in_bytes"), _text(folder / "memory.usage_in_bytes"), "total_inactive_file"
    if not (limit.isdigit() and used.isdigit()):
        return None
    counts = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
    return max(0, int(limit) - int(used) + int(counts.get(cached, "0")))


def _text(path: pathlib.Path) -> str:
    return " ".join(_lines(path)).strip()


def _lines(path: pathlib.Path) -> list[str]:
    with contextlib.suppress(OSError):  # another system, or a group without this limit
        return path.read_text().splitlines()
    return []
