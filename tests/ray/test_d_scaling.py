"""Under load a second Model replica comes, later it goes, and no request fails; Serve's own status says so."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import yaml

from serve_app.serve_status import APPLICATIONS, ray_token
from tests.ray.load import Load, Reader
from tests.ray.program import Program
from tests.ray.test_a_first_run import deploy

QUICK = {"target_ongoing_requests": 2, "upscale_delay_s": 1, "downscale_delay_s": 3, "look_back_period_s": 2, "metrics_interval_s": 1}


@pytest.fixture
def token(program: Program) -> str:
    return ray_token() or ""


def running(program: Program, token: str) -> int:
    """Model replicas that run, as Serve's REST API tells."""
    reply = httpx.get(f"{program.dashboard}{APPLICATIONS}", headers={"authorization": f"Bearer {token}"}, trust_env=False)
    replicas: list[dict[str, Any]] = reply.json()["applications"]["frugal-serve"]["deployments"]["Model"]["replicas"]
    return len([replica for replica in replicas if replica["state"] == "RUNNING"])


def test_a_second_replica_comes_and_goes_without_a_failed_request(program: Program, token: str) -> None:
    original = yaml.safe_load(program.path.read_text())
    quick = yaml.safe_load(program.path.read_text())
    model = next(entry for entry in quick["applications"][0]["deployments"] if entry["name"] == "Model")
    model["autoscaling_config"] |= QUICK
    deploy(program, quick)
    program.wait_for(lambda: running(program, token) == 1, 30)
    with Load(program, num_clients=8) as load:
        program.wait_for(lambda: running(program, token) == 2, 90)
        load.wait_for_new_answers(30)
        replicas = [replica["id"] for replica in program.get("/v1/report")["replicas"]["each"] if replica["phase"] == "ready"]
        assert len(replicas) >= 2
    streams: list[Reader] = []
    while running(program, token) == 2:  # one at a time, so that there are too few; some of them on the replica that goes
        streams.append(Reader(program, f"Stream number {len(streams)}.", 32))
        streams[-1].join(60)
        assert len(streams) < 500, "the second replica stays"
    assert [stream for stream in streams if not stream.done or stream.error] == []
    assert load.failures == {}
    assert program.ask("And now?").status_code == 200
    deploy(program, original)
    program.wait_for(lambda: program.get("/ready")["ready"], 60)
