"""What the launcher must know of a configuration before the driver checks all of it: where the data lies, where it listens, how it ends.

Checking Serve's own keys means importing Ray, two seconds that the driver needs for it anyway. So this checks only our part, and where
anything looks wrong it leaves the words to the full check. Tests: tests/fast/test_peek.py.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from serve_app.config_file import CheckedConfig, check_ours, load_config, read
from serve_app.settings import AppSettings, IngressSettings

LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Peek:
    """The launcher's part of a configuration."""

    app: AppSettings
    host: str
    port: int
    drain_s: float

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server."""
        host = LOCAL.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"


def peek(path: pathlib.Path) -> Peek:
    """Read a configuration's part.

    Raises:
        ConfigError: see config_file.load_config, which finds the words.
    """
    checked = _ours(path) or load_config(path)
    ingress = checked.user_configs["Ingress"]
    assert isinstance(ingress, IngressSettings)
    return Peek(checked.app, checked.host, checked.port, ingress.drain_s)


def _ours(path: pathlib.Path) -> CheckedConfig | None:
    """None where it is not sound; data of any shape comes here, so any exception may."""
    try:
        checked = check_ours(read(path))
    except Exception:
        return None
    return checked if isinstance(checked.host, str) and isinstance(checked.port, int) else None
