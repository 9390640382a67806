"""serve, stop, logs, status, validate: the program on this machine. Tests: tests/fast/test_command_line.py, tests/ray/test_e_stop.py."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from typing import Any

import click

from serve_app import render
from serve_app.commands.common import CONFIG, JSON, URL, checked, fail, peeked, server
from serve_app.database_url import SQLITE
from serve_app.errors import ConfigError, DatabaseUnavailable

STATUS_REPLY_S = 5.0  # a server that hangs is told, and not waited for


@click.command()
@CONFIG
@click.option("--background", is_flag=True, help="Come back when it is ready; `stop`, `status` and `logs` find it.")
@click.option(
    "--profile",
    type=click.Choice(["auto", "fast", "plain"]),
    default="auto",
    show_default=True,
    help="fast: HAProxy in front and Serve's throughput settings; plain: Serve's Python proxy.",
)
def serve(config: pathlib.Path, background: bool, profile: Any) -> None:
    """Start the program on CONFIG and serve until Ctrl-C."""
    from serve_app.program import background as background_run
    from serve_app.program import launcher
    from serve_app.program.profile import ProfileError, choose

    peek = peeked(config)
    _open_once(peek.app.database)
    try:
        if background:
            background_run.start(config, ("--profile", profile), peek, click.echo)
        else:
            launcher.Launcher(config, peek, choose(profile, peek.app.data_path), click.echo).run()
    except (launcher.StartError, ProfileError) as error:
        fail(str(error))


@click.command()
@CONFIG
def stop(config: pathlib.Path) -> None:
    """End the program that runs on CONFIG's data folder, and what a killed one left there."""
    from serve_app.program import leftovers, runfile
    from serve_app.program.launcher import STOP_S

    peek = peeked(config)
    folder = peek.app.data_path
    run_file = runfile.RunFile(folder)
    run = run_file.read()
    if run is not None and not runfile.stop(run, peek.drain_s + STOP_S + 4):
        fail(f"process {run.pid} does not end; look at {folder / 'serve.log'}")
    if run_file.begin(peek.url, "stop") is not None:  # what is there now belongs to a run that has just begun
        fail(f"another run on {folder} has begun meanwhile; stop it again")
    left = leftovers.find(folder)
    still = leftovers.end(left)
    run_file.end()
    if still:
        fail(f"cannot end {leftovers.described(still)}; end it yourself")
    click.echo("stopped" if run is not None or left else f"nothing runs on {folder}")


@click.command()
@CONFIG
@click.option("--lines", "-n", type=click.IntRange(0), default=100, show_default=True, help="The last so many lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
def logs(config: pathlib.Path, lines: int, follow: bool) -> None:
    """Print the log of the program that runs, or ran last, on CONFIG's data folder."""
    from serve_app.program import tail

    path = peeked(config).app.data_path / "serve.log"
    if not path.exists():
        fail(f"{path}: there is no log yet; start the program with `frugal-serve serve`")
    with contextlib.suppress(KeyboardInterrupt):
        for line in tail.lines(path, lines, follow=follow):
            click.echo(line)


@click.command()
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@click.option("--dashboard", envvar="RAY_DASHBOARD_ADDRESS", help="Ray's dashboard; by default that of the run on this machine.")
@JSON
@URL
def status(watch: bool, dashboard: str | None, as_json: bool, url: str) -> None:
    """Print whether the server is ready, and every deployment and replica as Serve sees it."""
    from serve_app.program import tail
    from serve_app.serve_status import state

    with server(url, STATUS_REPLY_S) as client, contextlib.suppress(KeyboardInterrupt):
        for again in tail.every(tail.WATCH_S, forever=watch):
            data = state(client, dashboard, _own_run(url))
            if again and not as_json:
                click.clear()
            click.echo(json.dumps(data) if as_json else render.status(data))
            if data["note"] and not as_json:
                click.echo(data["note"], err=True)
        if not data["ready"]:
            sys.exit(1)


@click.command()
@CONFIG
def validate(config: pathlib.Path) -> None:
    """Check CONFIG strictly: every key, Serve's too, and what contradicts what."""
    found = checked(config)
    model = found.app.model
    click.echo(f"{config}: valid; {model.id} ({model.quantization}) on {model.device}, http://{found.host}:{found.port}")


def _own_run(url: str) -> Any:
    """The run on the configuration in the current folder, where it is the one at this address."""
    from serve_app.program.peek import peek
    from serve_app.program.runfile import RunFile

    with contextlib.suppress(ConfigError):
        run = RunFile(peek(pathlib.Path("serve_config.yaml")).app.data_path).read()
        return run if run is not None and run.url == url.rstrip("/") else None
    return None


def _open_once(database: str) -> None:
    """Without its database every replica would fail, minutes from now and each with a traceback; an SQLite file is always there."""
    if database.startswith(SQLITE):
        return
    from serve_app.store.database import Database

    try:
        Database(database).close()
    except DatabaseUnavailable as error:
        fail(error.message)
