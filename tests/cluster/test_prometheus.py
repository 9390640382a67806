"""The Prometheus configuration, by Prometheus' own checker where it is installed."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest
import yaml

from serve_app.config_file import load_config
from tests.cluster.manifests import CLUSTER, ROOT

FILE = CLUSTER / "prometheus.yaml"


def checked(folder: pathlib.Path, text: str) -> int:
    """promtool's exit status for a configuration with a token file beside it."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian and Ubuntu: apt install prometheus)")
    (folder / "ray-token").write_text("0123456789abcdef\n")
    (folder / FILE.name).write_text(text)
    return subprocess.run([promtool, "check", "config", folder / FILE.name], capture_output=True, check=False).returncode


def test_promtool_takes_it(tmp_path: pathlib.Path) -> None:
    assert checked(tmp_path, FILE.read_text(encoding="utf-8")) == 0


def test_promtool_would_find_a_mistake(tmp_path: pathlib.Path) -> None:
    assert checked(tmp_path, FILE.read_text(encoding="utf-8").replace("credentials_file", "credential_file")) != 0


def test_it_asks_the_ports_of_this_machine_and_shows_the_token() -> None:
    ours, rays = yaml.safe_load(FILE.read_text(encoding="utf-8"))["scrape_configs"]
    assert ours["static_configs"] == [{"targets": [f"127.0.0.1:{load_config(ROOT / 'serve_config.yaml').port}"]}]
    assert rays["http_sd_configs"] == [
        {"url": "http://127.0.0.1:8265/api/prometheus/sd", "authorization": {"type": "Bearer", "credentials_file": "ray-token"}}
    ]
