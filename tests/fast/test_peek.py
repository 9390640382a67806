"""The launcher's quick look at a configuration says what the full check says, and leaves every mistake to it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from serve_app.config_file import load_config
from serve_app.errors import ConfigError
from serve_app.program.peek import Peek, peek

SHIPPED = pathlib.Path(__file__).parents[2] / "serve_config.yaml"


def test_it_agrees_with_the_full_check() -> None:
    checked = load_config(SHIPPED)
    assert peek(SHIPPED) == Peek(checked.app, "127.0.0.1", 8000, 5.0)


def test_it_does_not_import_ray() -> None:
    code = (
        f"import sys, pathlib; from serve_app.program.peek import peek; peek(pathlib.Path({str(SHIPPED)!r})); print('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_waiting: 256", "max_waitin: 256", "max_waitin: unknown key"),
        ("port: 8000", "port: many", "http_options.port"),
        ("applications:", "applications: 7\nother:", "applications"),
        ("host: 127.0.0.1", "prt: 1", "prt: unknown key"),
    ],
)
def test_a_mistake_is_told_in_the_words_of_the_full_check(tmp_path: pathlib.Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHIPPED.read_text().replace(old, new))
    with pytest.raises(ConfigError) as full:
        load_config(path)
    with pytest.raises(ConfigError) as quick:
        peek(path)
    assert (quick.value.message, said in quick.value.message) == (full.value.message, True)


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8000"), ("::", "http://[::1]:8000"), ("::1", "http://[::1]:8000"), ("box", "http://box:8000")],
)
def test_the_url_is_one_that_a_client_on_this_machine_reaches(host: str, url: str) -> None:
    assert Peek(load_config(SHIPPED).app, host, 8000, 0.0).url == url
