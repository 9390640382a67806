"""The stand-in for haproxy, against Serve's own template and the packaged binary: nothing but the front door is open to others."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import psutil
import pytest

from serve_app.program import haproxy, profile
from tests.ray.program import free_port

BINARY = profile.binary()
pytestmark = pytest.mark.skipif(BINARY is None, reason="there is no haproxy for this system")


def config_of_serve(folder: pathlib.Path, port: int, *, knows_application: bool = True) -> pathlib.Path:
    """What Serve's own code writes for one application whose replica is gone, or before it knows the application."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig
    from ray.serve._private.haproxy import ServerConfig as Server
    from ray.serve.config import HTTPOptions

    path = folder / "haproxy.cfg"
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        metrics_socket_path=str(folder / "metrics.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_port=free_port(),
        stats_port=free_port(),
    )
    backend = BackendConfig(name="app", path_prefix="/", app_name="app", servers=[Server("gone", "127.0.0.1", free_port())])
    HAProxyApi(config, {"app": backend} if knows_application else {}, config_file_path=str(path))._generate_config_file_internal()
    (folder / "server-state").touch()
    return path


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A short one: a socket's path may have no more than 107 bytes."""
    folder = profile.run_folder(tmp_path)
    held = profile.make_run_folder(folder)
    profile.write_wrapper(folder / "haproxy")
    yield folder
    os.close(held)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.fixture
def running(folder: pathlib.Path) -> Iterator[tuple[subprocess.Popen[bytes], int, pathlib.Path]]:
    port = free_port()
    path = config_of_serve(folder, port)
    environment = {**os.environ, haproxy.REAL_BINARY: BINARY or ""}
    process = subprocess.Popen([str(folder / "haproxy"), "-db", "-f", str(path)], env=environment, stderr=subprocess.DEVNULL)
    wait_for_port(port)
    wait_for(folder / "admin.sock")
    yield process, port, folder
    process.kill()
    process.wait()


def wait_for(path: pathlib.Path) -> None:
    """HAProxy listens under another name first, and then gives the socket its own."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists():
            return
    raise AssertionError(f"{path.name} is not there")


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError("haproxy does not listen")


def test_every_listener_is_on_loopback_and_the_process_is_haproxy_itself(
    running: tuple[subprocess.Popen[bytes], int, pathlib.Path],
) -> None:
    process, port, _ = running
    found = [connection.laddr for connection in psutil.Process(process.pid).net_connections("tcp") if connection.status == "LISTEN"]
    assert psutil.Process(process.pid).exe() == os.path.realpath(BINARY or "")
    assert {address.ip for address in found} == {"127.0.0.1"}
    assert port in {address.port for address in found}
    assert len(found) == 3  # the front door, statistics, metrics


def test_the_admin_socket_and_the_configuration_are_its_owners_alone(running: tuple[subprocess.Popen[bytes], int, pathlib.Path]) -> None:
    folder = running[2]
    assert {name: oct(stat.S_IMODE((folder / name).stat().st_mode)) for name in ("admin.sock", "haproxy.cfg")} == {
        "admin.sock": "0o600",
        "haproxy.cfg": "0o600",
    }
    assert oct(stat.S_IMODE(folder.stat().st_mode)) == "0o700"


def test_where_no_replica_is_there_the_answer_is_openais_error(running: tuple[subprocess.Popen[bytes], int, pathlib.Path]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{running[1]}/v1/models", timeout=20)
    assert (caught.value.code, caught.value.headers["retry-after"]) == (503, "2")
    assert json.loads(caught.value.read())["error"]["code"] == "unavailable"


def test_before_it_knows_the_application_it_asks_to_come_back_and_does_not_say_404(folder: pathlib.Path) -> None:
    text = config_of_serve(folder, free_port(), knows_application=False).read_text()
    assert "return status 404" in text
    private = haproxy.private(text, "x")
    assert ("return status 404" in private, private.count("deny deny_status 503")) == (False, 1)


def test_it_stops_listening_when_its_parent_is_killed(folder: pathlib.Path) -> None:
    port = free_port()
    path = config_of_serve(folder, port)
    starts_it = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    command = [sys.executable, "-c", starts_it, str(folder / "haproxy"), "-db", "-f", str(path)]
    environment = {**os.environ, haproxy.REAL_BINARY: BINARY or ""}
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_for_port(port)
    (child,) = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone == [child]


def test_an_address_that_the_user_chose_stays(folder: pathlib.Path) -> None:
    text = "frontend http_frontend\n    bind 0.0.0.0:8000\nfrontend prometheus\n    bind :9101\nlisten stats\n  bind *:8404\n"
    assert haproxy.private(text, "x") == text.replace("bind :9101", "bind 127.0.0.1:9101").replace("bind *:8404", "bind 127.0.0.1:8404")
