"""What the commands share: options, a checked configuration, a client of the running server, and how a command fails."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from serve_app.client import DEFAULT_URL, TIMEOUT_S, Client, ClientError
from serve_app.errors import ConfigError

CONFIG = click.argument("config", type=click.Path(path_type=pathlib.Path), default=pathlib.Path("serve_config.yaml"))
URL = click.option("--url", default=DEFAULT_URL, envvar="FRUGAL_URL", show_default=True, help="Address of the running server.")
URL_TOO = click.option("--url", help="The same, written behind the command.")  # no default: it would hide one given before the command
JSON = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")


def checked(path: pathlib.Path) -> Any:
    """The configuration, or the end of the command with every mistake in it."""
    from serve_app.config_file import load_config

    return _told(path, load_config)


def peeked(path: pathlib.Path) -> Any:
    """The launcher's part of it, likewise."""
    from serve_app.program.peek import peek

    return _told(path, peek)


@contextlib.contextmanager
def server(url: str, timeout_s: float = TIMEOUT_S, key: str | None = None) -> Iterator[Client]:
    """A client; what goes wrong inside ends the command with one line."""
    try:
        with Client(url, timeout_s=timeout_s, key=key) as client:
            yield client
    except ClientError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """End the command."""
    click.echo(message, err=True)
    sys.exit(2)


def _told(path: pathlib.Path, load: Callable[[pathlib.Path], Any]) -> Any:
    try:
        return load(path)
    except ConfigError as error:
        fail("\n".join(f"{path}: {problem}" if not problem.startswith(str(path)) else problem for problem in error.problems))
