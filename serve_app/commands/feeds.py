"""feeds list, add, check, refresh, pause, resume, remove, import, export: asked of a running server.

A feed is named by its id, the beginning of it, or its address. `check --local` needs no server. Tests: tests/fast/test_command_feeds.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import click

from serve_app import render
from serve_app.client import Client
from serve_app.commands.common import JSON, URL, URL_TOO, checked, fail, server
from serve_app.feed_url import masked

OPML = "text/x-opml"
FEED = click.argument("feed")


@click.group(invoke_without_command=True)
@JSON
@URL
@click.pass_context
def feeds(context: click.Context, as_json: bool, url: str) -> None:
    """List the feeds and their health; add, try, refresh, pause or remove one; carry the list to and from other readers.

    FEED is a feed's id, the beginning of one, or its address.
    """
    context.obj = url
    if context.invoked_subcommand is None:
        _list(url, as_json)
    elif as_json:
        raise click.UsageError("write --json behind the command that it is for")


@feeds.command("list")
@JSON
@URL_TOO
@click.pass_obj
def list_(given: str, as_json: bool, url: str | None) -> None:
    """Print every feed with its health, the same as `feeds` alone."""
    _list(url or given, as_json)


@feeds.command("add")
@click.argument("address")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of its own, such as title=News or full_text=true."
)
@JSON
@URL_TOO
@click.pass_obj
def add(given: str, address: str, options: tuple[str, ...], as_json: bool, url: str | None) -> None:
    """Follow the feed at ADDRESS from now on."""
    with server(url or given) as client:
        _show(client.post("/v1/feeds", {"url": address, "options": dict(map(_option, options))}), as_json)


@feeds.command("refresh")
@FEED
@JSON
@URL_TOO
@click.pass_obj
def refresh(given: str, feed: str, as_json: bool, url: str | None) -> None:
    """Check a feed now."""
    with server(url or given) as client:
        _show(client.post(f"/v1/feeds/{_id(client, feed)}/refresh"), as_json)


@feeds.command("pause")
@FEED
@JSON
@URL_TOO
@click.pass_obj
def pause(given: str, feed: str, as_json: bool, url: str | None) -> None:
    """Neither check nor summarise a feed, until `resume`."""
    with server(url or given) as client:
        _show(client.patch(f"/v1/feeds/{_id(client, feed)}", {"paused": True}), as_json)


@feeds.command("resume")
@FEED
@JSON
@URL_TOO
@click.pass_obj
def resume(given: str, feed: str, as_json: bool, url: str | None) -> None:
    """Let a paused feed go on where it was."""
    with server(url or given) as client:
        _show(client.patch(f"/v1/feeds/{_id(client, feed)}", {"paused": False}), as_json)


@feeds.command("remove")
@FEED
@URL_TOO
@click.pass_obj
def remove(given: str, feed: str, url: str | None) -> None:
    """Forget a feed that was added by `add`, and its articles."""
    with server(url or given) as client:
        client.delete(f"/v1/feeds/{(feed_id := _id(client, feed))}")
        click.echo(f"removed {feed_id}")


@feeds.command("import")
@click.argument("file", type=click.File("rb"))
@JSON
@URL_TOO
@click.pass_obj
def import_(given: str, file: BinaryIO, as_json: bool, url: str | None) -> None:
    """Add the feeds of the OPML FILE (- for standard input). Ends with 1 where some are refused; the others are added all the same."""
    with server(url or given) as client:
        told = client.send("/v1/feeds/import", file.read(), OPML)
    click.echo(json.dumps(told) if as_json else render.imported_feeds(told))
    if told["refused"]:
        sys.exit(1)


@feeds.command("export")
@click.argument("file", type=click.File("wb", lazy=True))
@click.option("--passwords", is_flag=True, help="Keep the users and passwords of addresses; needs the admin key in FRUGAL_ADMIN_KEY.")
@click.option("--key", envvar="FRUGAL_ADMIN_KEY", hidden=True)
@URL_TOO
@click.pass_obj
def export(given: str, file: BinaryIO, passwords: bool, key: str | None, url: str | None) -> None:
    """Write the feeds into FILE as OPML (- for standard output)."""
    if passwords and not key:
        fail("--passwords needs the admin key in FRUGAL_ADMIN_KEY; `frugal-serve admin-key new` makes one")
    with server(url or given, key=key if passwords else None) as client:
        body, headers = client.download("/v1/feeds/export.opml", **({"passwords": "true"} if passwords else {}))
    file.write(body)
    if (num := int(headers.get("x-left-out", "0"))) > 0:
        click.echo(f"{num} cannot be restored from it: the sample feed, or an address whose password was left out (--passwords)", err=True)


@feeds.command("check")
@click.argument("address")
@click.option("--local", is_flag=True, help="From this process, with the settings of --config; needs no server.")
@click.option("--config", type=click.Path(path_type=pathlib.Path), default=pathlib.Path("serve_config.yaml"), show_default=True)
@JSON
@URL_TOO
@click.pass_obj
def check(given: str, address: str, local: bool, config: pathlib.Path, as_json: bool, url: str | None) -> None:
    """Show what a check of ADDRESS would do, step by step, without storing anything. Ends with 1 where no articles would come of it."""
    if local:
        found = _probed(address, config)
    else:
        with server(url or given) as client:
            found = client.post("/v1/feeds/check", {"url": address})
    click.echo(json.dumps(found) if as_json else render.probe(found))
    if not found["ok"]:
        sys.exit(1)


def _list(url: str, as_json: bool) -> None:
    with server(url) as client:
        data = client.get("/v1/feeds")
        click.echo(json.dumps(data) if as_json else render.feeds(data["data"]))


def _show(feed: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(feed) if as_json else render.feeds([feed]))


def _id(client: Client, name: str) -> str:
    found = matching(client.get("/v1/feeds")["data"], name)
    if len(found) > 1:
        fail(f"{name!r} is the beginning of {len(found)} ids: {' '.join(found)}; write more of it")
    if not found:
        fail(f"there is no feed {masked(name)!r}; `frugal-serve feeds` lists them")
    return found[0]


def matching(listed: Sequence[dict[str, Any]], name: str) -> list[str]:
    """The ids of the feeds that a name may mean: the one with this id or address, else those whose id begins so."""
    by_address = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]  # as store/feed_list.py makes ids; lists mask passwords
    exact = [feed["id"] for feed in listed if feed["id"] in (name, by_address) or feed["url"] == name]
    return exact or [feed["id"] for feed in listed if name and feed["id"].startswith(name)]


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--option {text!r}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a plain word needs no quotes


def _probed(address: str, config: pathlib.Path) -> dict[str, Any]:
    """The server's JSON, made here."""
    import time

    from serve_app.feeds.fetch import Fetcher
    from serve_app.feeds.parsing import Parsers
    from serve_app.feeds.probe import probe

    settings = checked(config).user_configs["Feeds"]

    async def run() -> dict[str, Any]:
        fetcher, parsers = Fetcher(settings), Parsers()
        try:
            return asdict(await probe(address, settings, fetcher, parsers, time.time()))
        finally:
            fetcher.close()
            await parsers.close()

    return asyncio.run(run())
