"""`frugal-serve status`: what the server says, and what Serve's controller says behind the token."""

from __future__ import annotations

import http.server
import json
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve_app import render
from serve_app.client import Client, ClientError
from serve_app.program.runfile import Run
from serve_app.serve_status import APPLICATIONS, ray_token, state

READY = {"ready": True, "waiting_for": [], "errors": []}
REPLICA = {"id": "r1", "phase": "ready", "startup_s": 9.0, "used_s": 3.0, "idle_s": 88.0}
SERVE = {
    "applications": {
        "frugal-serve": {
            "deployments": {
                "Model": {
                    "status": "UPSCALING",
                    "message": "one more",
                    "target_num_replicas": 2,
                    "replicas": [{"replica_id": "abc", "state": "RUNNING", "pid": 7, "start_time_s": 5.0}],
                }
            }
        }
    }
}


def server(replicas: list[dict[str, Any]]) -> Client:
    replies = {"/ready": READY, "/v1/report": {"replicas": {"each": replicas}}}
    return Client("http://server", httpx.MockTransport(lambda request: httpx.Response(200, json=replies[request.url.path])))


@pytest.fixture
def dashboard() -> Iterator[str]:
    """Ray's dashboard in small: it wants the token `secret`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["authorization"] == "Bearer secret"
            self.send_response(200 if allowed and self.path == APPLICATIONS else 401)
            self.end_headers()
            self.wfile.write(json.dumps(SERVE).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{listener.server_port}"
        listener.shutdown()


def test_both_sources_are_shown_together(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    now = time.time()
    alive = {**REPLICA, "stopped_at": None, "last_seen_at": now}
    gone = {**REPLICA, "id": "r0", "stopped_at": now, "last_seen_at": now}
    killed = {**REPLICA, "id": "r2", "stopped_at": None, "last_seen_at": now - 60}
    with server([alive, gone, killed]) as client:
        found = state(client, dashboard)
    assert found["models"] == [alive]
    assert render.status(found).splitlines() == [
        "ready",
        "Model        upscaling    1 of 2 replicas",
        "  abc  running    process 7",
        "  one more",
        "model replicas",
        "  r1  ready; 9 s start-up, 3 s used, 88 s idle",
    ]


def test_a_wrong_token_is_told_with_the_remedy(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "stale")
    with server([]) as client:
        found = state(client, dashboard)
    assert found["deployments"] is None
    assert found["note"] == (
        f"Ray's dashboard at http://{dashboard} refuses the token; `ray get-auth-token` prints the right one, RAY_AUTH_TOKEN takes it"
    )


@pytest.mark.parametrize(
    ("address", "said"),
    [(None, "is not known here"), ("127.0.0.1:1", "does not answer (ConnectError)"), ("http://[::1", "does not answer (InvalidURL)")],
)
def test_without_a_dashboard_the_servers_own_word_is_shown(address: str | None, said: str) -> None:
    with server([]) as client:
        found = state(client, address)
    assert (found["ready"], found["deployments"], said in found["note"]) == (True, None, True)


def nobody() -> Client:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    return Client("http://server", httpx.MockTransport(refuse))


def test_while_the_server_is_not_there_the_run_and_the_dashboard_are_shown(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with nobody() as client:
        starting = state(client, None, Run(7, 0.0, "http://server", "fast", dashboard=dashboard))
        broken = state(client, None, Run(7, 0.0, "http://server", "fast", dashboard=dashboard, ready_at=1.0))
    assert (starting["ready"], starting["waiting_for"]) == (False, ["process 7 is starting it"])
    assert [found["name"] for found in starting["deployments"]] == ["Model"]
    assert "no server answers at http://server" in broken["waiting_for"][0]


def test_where_nobody_is_there_at_all_it_is_an_error() -> None:
    with nobody() as client, pytest.raises(ClientError, match="no server answers"):
        state(client, None)


def test_the_token_is_found_where_ray_finds_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ray_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home\n")
    assert ray_token() == "of the home"
    (tmp_path / "file").write_text("of the file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    assert ray_token() == "of the file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert ray_token() == "of the environment"
