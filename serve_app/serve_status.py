"""How the program is, from two sources: /ready of the server, and deployments and replicas as Serve's controller sees them.

The second is the dashboard's REST API, which asks for Ray's token; without a dashboard or a token it is left out and said so. The server's
report adds what each Model replica is doing. Tests: tests/fast/test_serve_status.py.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import httpx

from serve_app.client import Client, ClientError
from serve_app.program.runfile import Run

APPLICATIONS = "/api/serve/applications/"
TIMEOUT_S = 5.0
SEEN_S = 10.0  # a replica writes into the books every second; one that was killed just stops


def state(client: Client, dashboard: str | None, run: Run | None = None) -> dict[str, Any]:
    """`{"ready", "waiting_for", "errors", "models": [...], "deployments": [...] or None, "note"}`.

    `dashboard` is an address such as 127.0.0.1:8265, or None: that of `run`, the run on this machine, where there is one.

    Raises:
        ClientError: the server does not answer, and there is nobody else to ask.
    """
    dashboard = dashboard or (run.dashboard if run is not None else None)
    try:
        data: dict[str, Any] = client.get("/ready")
    except ClientError as error:
        if run is None and not dashboard:
            raise
        doing = f"process {run.pid} is starting it" if run is not None and run.ready_at is None else str(error)
        data = {"ready": False, "waiting_for": [doing], "errors": []}
    data["models"] = [replica for replica in _replicas(client) if _lives(replica)]
    data["deployments"], data["note"] = _deployments(dashboard)
    return data


def ray_token() -> str | None:
    """Ray's token where Ray itself looks for it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = pathlib.Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or pathlib.Path.home() / ".ray" / "auth_token")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _lives(replica: dict[str, Any]) -> bool:
    return replica["stopped_at"] is None and time.time() - replica["last_seen_at"] < SEEN_S


def _replicas(client: Client) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = client.get("/v1/report")["replicas"]["each"]
    except ClientError:
        return []
    return found


def _deployments(dashboard: str | None) -> tuple[list[dict[str, Any]] | None, str]:
    if not dashboard:
        return None, "Ray's dashboard is not known here; name it with --dashboard to see replicas"
    url = dashboard if "://" in dashboard else f"http://{dashboard}"
    token = ray_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        reply = httpx.get(f"{url.rstrip('/')}{APPLICATIONS}", headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except (httpx.RequestError, httpx.InvalidURL) as error:
        return None, f"Ray's dashboard at {url} does not answer ({type(error).__name__})"
    if reply.status_code in (401, 403):
        return None, f"Ray's dashboard at {url} refuses the token; `ray get-auth-token` prints the right one, RAY_AUTH_TOKEN takes it"
    if reply.is_error:
        return None, f"Ray's dashboard at {url} answered {reply.status_code}"
    return list(_rows(reply.json())), ""


def _rows(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for application in data.get("applications", {}).values():
        for name, deployment in application["deployments"].items():
            yield {
                "name": name,
                "status": deployment["status"],
                "message": deployment["message"],
                "target": deployment["target_num_replicas"],
                "replicas": [
                    {"id": replica["replica_id"], "state": replica["state"], "pid": replica["pid"], "started_at": replica["start_time_s"]}
                    for replica in deployment["replicas"]
                ],
            }
