"""Prometheus itself, with cluster/prometheus.yaml, finds and scrapes the running program: ours and Ray's figures, behind the token."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from serve_app.serve_status import ray_token
from tests.ray.program import REPOSITORY, Program, free_port

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus; apt install prometheus")


@pytest.fixture
def prometheus(program: Program, tmp_path: pathlib.Path) -> Iterator[str]:
    """One on the shipped configuration, at this program's ports and every second; its address."""
    config = yaml.safe_load((REPOSITORY / "cluster" / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "1s"
    ours, rays = config["scrape_configs"]
    ours["static_configs"][0]["targets"] = [f"127.0.0.1:{program.port}"]
    rays["http_sd_configs"][0]["url"] = rays["http_sd_configs"][0]["url"].replace("http://127.0.0.1:8265", program.dashboard)
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "ray-token").write_text(ray_token() or "")
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yaml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    yield f"http://{address}"
    process.terminate()
    process.wait()


def test_it_finds_and_scrapes_ours_and_rays_figures(program: Program, prometheus: str) -> None:
    def healthy(job: str) -> bool:
        targets = httpx.get(f"{prometheus}/api/v1/targets", trust_env=False).json()["data"]["activeTargets"]
        found = [target for target in targets if target["labels"]["job"] == job]
        return bool(found) and all(target["health"] == "up" for target in found)

    program.wait_for(lambda: healthy("frugal-serve") and healthy("ray"), 60)
    program.wait_for(lambda: query(prometheus, "frugal_http_requests_total"), 60)
    program.wait_for(lambda: query(prometheus, "ray_serve_deployment_request_counter_total"), 60)


def query(prometheus: str, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{prometheus}/api/v1/query", params={"query": name}, trust_env=False).json()["data"]["result"]
    return found
