"""articles rerun: summaries written again by a running server. Tests: tests/fast/test_command_articles.py."""

from __future__ import annotations

import json
from typing import Any

import click

from serve_app import render
from serve_app.commands.common import JSON, URL, server


@click.group()
def articles() -> None:
    """What the running server has made of articles."""


@articles.command("rerun")
@click.argument("ids", nargs=-1)
@click.option("--feed", help="Only of this feed's id.")
@click.option("--tag", help="Only with this tag.")
@click.option("--state", type=click.Choice(["done", "failed", "skipped"]), default="done", show_default=True, help="Only in this state.")
@click.option("--prompt-not", "prompt_version_not", help="Only summaries of another prompt version, or none.")
@click.option("--model-not", help="Only summaries of another model, or none.")
@click.option("--since", help="Published or first seen then or later: a date, a time or Unix seconds.")
@click.option("--yes", is_flag=True, help="Do it without a question.")
@JSON
@URL
def rerun(ids: tuple[str, ...], yes: bool, as_json: bool, url: str, **chosen: Any) -> None:
    """Summarise articles again, those with IDS or all that the options leave, after saying what it costs."""
    body = {name: value for name, value in {**chosen, "ids": list(ids) or None}.items() if value is not None}
    with server(url) as client:
        preview = client.post("/v1/articles/rerun", {**body, "dry_run": True})
        click.echo(json.dumps(preview) if as_json else render.rerun(preview))
        if not preview["num_articles"] or not (yes or click.confirm("Do it?", err=True)):
            return
        done = client.post("/v1/articles/rerun", {**body, "dry_run": False})
        click.echo(json.dumps(done) if as_json else render.rerun(done))
