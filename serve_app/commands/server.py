"""ask, digest, report: asked of a running server. Tests: tests/fast/test_command_line.py."""

from __future__ import annotations

import json
from typing import Any

import click

from serve_app import render
from serve_app.commands.common import JSON, URL, server


@click.command()
@click.argument("question")
@click.option("--system", help="System prompt.")
@click.option("--max-tokens", type=int, help="At most this many tokens of answer.")
@click.option("--temperature", type=float, help="0 is greedy; greedy answers are cached.")
@URL
def ask(question: str, system: str | None, max_tokens: int | None, temperature: float | None, url: str) -> None:
    """Ask the model QUESTION and print the answer as it comes."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    with server(url) as client:
        body: dict[str, Any] = {"model": client.get("/v1/models")["data"][0]["id"], "messages": messages}
        body |= {name: value for name, value in (("max_tokens", max_tokens), ("temperature", temperature)) if value is not None}
        body["stream_options"] = {"include_usage": True}
        for event in client.stream("/v1/chat/completions", body):
            for choice in event["choices"]:
                click.echo(render.spoken(choice["delta"].get("content") or ""), nl=False)
            if event.get("frugal"):
                click.echo()
                spent = event["frugal"]
                took = f"{spent['compute_s']:.2f} compute-seconds, ${spent['cost_usd']:.8f}"
                click.echo(f"[{spent['cache']}; {event['usage']['completion_tokens']} tokens; {took}]", err=True)


@click.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Newest articles first.")
@click.option("--feed", help="Only this feed's id.")
@URL
def digest(limit: int, feed: str | None, url: str) -> None:
    """Print the processed articles, and below them what everything cost."""
    with server(url) as client:
        articles = list(client.pages("/v1/articles", limit, state="done", feed=feed))
        click.echo(render.digest(articles) or "no article is done yet; see frugal-serve feeds")
        click.echo(f"\n{'costs and performance':-^60}")
        click.echo(render.report(client.get("/v1/report")))


@click.command()
@JSON
@URL
def report(as_json: bool, url: str) -> None:
    """Print what everything cost and what batching and caching avoided."""
    with server(url) as client:
        data = client.get("/v1/report")
        click.echo(json.dumps(data) if as_json else render.report(data))
