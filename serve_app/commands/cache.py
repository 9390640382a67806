"""cache show, list, delete, warm, export, import: the stored answers of a running server, with the admin key.

Tests: tests/fast/test_command_cache.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TextIO

import click

from serve_app import render
from serve_app.client import Client
from serve_app.commands.common import JSON, URL, fail, server

ROOT = "/v1/admin/cache"
MAX_BYTES = 500_000  # of a request's body: half of what a server takes unless told otherwise
Command = Callable[..., None]


@click.group()
@click.option("--key", envvar="FRUGAL_ADMIN_KEY", help="The admin key; better as FRUGAL_ADMIN_KEY, which no list of processes shows.")
@click.pass_context
def cache(context: click.Context, key: str | None) -> None:
    """Look at the stored answers, delete them, make them ahead of time, carry them to another server."""
    context.obj = key


def _selecting(command: Command) -> Command:
    """Options that say which answers: all that are given must hold."""
    options = (
        click.option("--model", help="Of this model."),
        click.option("--feed", help="On behalf of this feed's id."),
        click.option("--older-than", "older_than_s", type=click.FloatRange(0), help="Older than so many seconds."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextlib.contextmanager
def _server(url: str) -> Iterator[Client]:
    key = click.get_current_context().obj
    if not key:
        fail("this needs the admin key in FRUGAL_ADMIN_KEY; `frugal-serve admin-key new` makes one")
    with server(url, key=key) as client:
        yield client


def _params(selection: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in selection.items() if value is not None}


@cache.command("show")
@click.argument("key")
@JSON
@URL
def show(key: str, as_json: bool, url: str) -> None:
    """Print the stored answer under KEY, which x-cache-key of a reply says."""
    with _server(url) as client:
        entry = client.get(f"{ROOT}/entries/{key}")
    click.echo(json.dumps(entry) if as_json else render.stored_answer(entry))


@cache.command("list")
@_selecting
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Newest first.")
@JSON
@URL
def list_(limit: int, as_json: bool, url: str, **selection: Any) -> None:
    """Print how much is stored, and the newest answers."""
    with _server(url) as client:
        totals = client.get(ROOT)
        entries = list(client.pages(f"{ROOT}/entries", limit, **_params(selection)))
    click.echo(json.dumps({**totals, "data": entries}) if as_json else render.stored_answers(totals, entries))


@cache.command("delete")
@click.argument("keys", nargs=-1)
@_selecting
@click.option("--all", "everything", is_flag=True, help="Every stored answer.")
@URL
def delete(keys: tuple[str, ...], everything: bool, url: str, **selection: Any) -> None:
    """Delete answers by KEYS, by model, feed or age, or all of them. No replica serves them afterwards."""
    with _server(url) as client:
        common = {**_params(selection), **({"all": "true"} if everything else {})}
        replies = [client.remove(f"{ROOT}/entries", **common, **({"key": key} if key else {})) for key in keys or (None,)]
    click.echo(f"{sum(reply['deleted'] for reply in replies)} deleted")


@cache.command("warm")
@click.argument("requests", type=click.File("rb"))
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at a time.")
@JSON
@URL
def warm(requests: BinaryIO, concurrency: int, as_json: bool, url: str) -> None:
    """Ask what the JSON lines of the file REQUESTS ask (- for standard input), at low priority, so that the answers are there."""
    num_failed = 0
    with _server(url) as client:
        for first, body in _bodies(requests):
            for result in client.lines("POST", f"{ROOT}/warm", body, concurrency=concurrency):
                result["line"] += first - 1
                num_failed += "error" in result
                click.echo(json.dumps(result) if as_json else render.warmed(result))
    if num_failed:
        fail(f"{num_failed} failed")


@cache.command("export")
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=True))
@_selecting
@URL
def export(file: TextIO, url: str, **selection: Any) -> None:
    """Write the stored answers into FILE (- for standard output), one JSON line each."""
    num = 0
    with _server(url) as client:
        client.get(f"{ROOT}/entries", limit=1)  # before the file is touched: a server that is gone or refuses costs no earlier export
        file.write("")
        for line in client.lines("GET", f"{ROOT}/export", **_params(selection)):
            file.write(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n")
            num += 1
    click.echo(f"{num} exported", err=True)


@cache.command("import")
@click.argument("file", type=click.File("rb"))
@URL
def import_(file: BinaryIO, url: str) -> None:
    """Store the answers of FILE (- for standard input), where there are no newer ones."""
    sums = {"stored": 0, "not_newer": 0, "refused": 0}
    with _server(url) as client:
        for first, body in _bodies(file):
            reply = client.send(f"{ROOT}/import", body)
            sums = {name: total + reply[name] for name, total in sums.items()}
            for refused in reply["errors"]:
                click.echo(f"line {refused['line'] + first - 1}: {refused['error']}", err=True)
    click.echo(f"{sums['stored']} stored, {sums['not_newer']} not newer than what is there, {sums['refused']} refused")
    if sums["refused"]:
        sys.exit(1)


def _bodies(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines in bodies that a server takes, each with the number of its first line."""
    some: list[bytes] = []
    first = 1
    for number, line in enumerate(lines, 1):
        if some and sum(map(len, some)) + len(line) > MAX_BYTES:
            yield first, b"".join(some)
            some, first = [], number
        some.append(line)
    if any(line.strip() for line in some):
        yield first, b"".join(some)
