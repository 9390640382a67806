"""The server that a benchmark starts for itself, with a small program in its place: found ready, told why not, and always stopped."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
from typing import Any

import psutil
import pytest
import yaml

from serve_app.bench import own_server
from serve_app.bench.own_server import OwnServerError
from serve_app.config_file import CheckedConfig, check_config, load_config
from tests.fast.test_command_line import SHIPPED

READY = """
import http.server, os, pathlib, sys, yaml
config = yaml.safe_load(pathlib.Path(sys.argv[1]).read_text())
pathlib.Path({seen!r}).write_text(f"{{os.getpid()}} {{os.environ['FRUGAL_DATA_DIR']}} {{os.environ.get('FRUGAL_DATABASE_URL')}}")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"ready": true}}')
http.server.HTTPServer((config["http_options"]["host"], config["http_options"]["port"]), Handler).serve_forever()
"""
FAILS = "print('no weights'); raise SystemExit(2)"


class Stage:
    """A configuration in a folder, and a program that plays the server."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.seen = folder / "seen"
        data = yaml.safe_load(SHIPPED.read_text())
        data["applications"][0]["args"]["data_dir"] = str(folder / "data")
        self.config: CheckedConfig = check_config(data)
        self.said: list[str] = []

    def program(self, text: str) -> tuple[str, ...]:
        return (sys.executable, "-c", text.format(seen=str(self.seen)))

    @property
    def process(self) -> int:
        return int(self.seen.read_text().split()[0])

    @property
    def data_dir(self) -> pathlib.Path:
        return pathlib.Path(self.seen.read_text().split()[1])


@pytest.fixture
def stage(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.delenv("FRUGAL_DATA_DIR", raising=False)
    monkeypatch.setattr(own_server, "POLL_S", 0.02)
    return Stage(tmp_path)


def test_it_is_ready_inside_the_block_and_gone_after_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGAL_DATABASE_URL", "postgresql://production/frugal")
    with own_server.own_server(stage.config, stage.said.append, stage.program(READY)) as url:
        assert own_server.answers(url)
        assert psutil.pid_exists(stage.process)
        assert stage.data_dir != stage.config.app.data_path
        assert (stage.data_dir / "models").resolve() == stage.config.app.data_path / "models"
    assert not psutil.pid_exists(stage.process)
    assert stage.seen.read_text().split()[2] == "None"  # nor does it write into the database of production
    assert not own_server.answers(url)
    assert not stage.data_dir.exists()
    assert (stage.config.app.data_path / "models").is_dir()  # the quantised weights stay


def test_it_is_stopped_after_an_error(stage: Stage) -> None:
    with pytest.raises(ZeroDivisionError), own_server.own_server(stage.config, stage.said.append, stage.program(READY)):
        raise ZeroDivisionError
    assert not psutil.pid_exists(stage.process)


def be_terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["as usual", "started by a script with &"])
def test_sigterm_stops_it_as_ctrl_c_does(stage: Stage, handler: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    of_ctrl_c = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt), own_server.own_server(stage.config, stage.said.append, stage.program(READY)):
            be_terminated()
    finally:
        signal.signal(signal.SIGINT, of_ctrl_c)
    assert not psutil.pid_exists(stage.process)
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_that_does_not_come_up_is_told_with_its_last_words(stage: Stage) -> None:
    with (
        pytest.raises(OwnServerError, match=r"(?s)the server ended with 2; it said last:.*no weights"),
        own_server.own_server(stage.config, stage.said.append, stage.program(FAILS)),
    ):
        pass


def test_its_configuration_is_the_same_without_feeds_and_outside_databases() -> None:
    config = load_config(SHIPPED)
    config.data["applications"][0]["args"]["database_url"] = "sqlite:////somewhere/production.db"
    changed = own_server.quiet(config.data, 1234)
    checked = check_config(changed)
    assert (checked.host, checked.port) == ("127.0.0.1", 1234)
    assert changed["applications"][0]["deployments"][3]["user_config"]["feeds"] == []
    assert "production" not in str(changed)
    assert checked.user_configs["Model"] == config.user_configs["Model"]
    assert config.data["http_options"]["port"] == 8000  # the given one is as it was
    del config.data["applications"][0]["deployments"]
    assert own_server.quiet(config.data, 1)["applications"][0]["deployments"] == [{"name": "Feeds", "user_config": {"feeds": []}}]
