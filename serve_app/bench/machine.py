"""The conditions of a measurement: what it ran on. A number without them is not shown."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

from serve_app.resources import num_cores

PACKAGES = ("torch", "transformers", "bitsandbytes", "ray")


def conditions() -> dict[str, Any]:
    """Processor, cores, load, versions and commit."""
    return {
        "cpu": _cpu(),
        "cores": num_cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _cpu() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = found.get("flags", "").split()
    widest = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "")
    return " ".join(part for part in (found.get("model name", platform.processor() or platform.machine()), widest) if part)


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ("git", "describe", "--always", "--dirty"), cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None
