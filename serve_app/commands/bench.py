"""bench engine, bench http. Tests: tests/fast/test_bench_http.py, tests/model/test_bench.py."""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

import click
from click.core import ParameterSource

from serve_app.client import DEFAULT_URL
from serve_app.commands.common import CONFIG, checked, fail

WORKLOADS = ("cached", "articles", "zipf", "stream")


@click.group()
def bench() -> None:
    """Measure this machine."""


@bench.command("engine")
@CONFIG
@click.option("--articles", type=click.IntRange(1), default=16, show_default=True, help="Real prose of 300 to 500 tokens each.")
@click.option("--max-tokens", type=click.IntRange(1), default=32, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--transformers", "with_transformers", is_flag=True, help="Also transformers' continuous batching; slow on a CPU.")
@click.option("--json", "as_json", is_flag=True, help="Only the JSON document.")
def bench_engine(config: pathlib.Path, articles: int, max_tokens: int, rounds: int, with_transformers: bool, as_json: bool) -> None:
    """One request at a time, static batches of 4 to 32, and slots."""
    found = checked(config)
    from serve_app.model.source import stay_offline

    stay_offline(found.app.model.source)  # before the imports below
    from serve_app.bench import engine
    from serve_app.errors import ModelLoadError
    from serve_app.model.loader import load

    say = (lambda _line: None) if as_json else (lambda line: click.echo(line, err=True))
    threads = found.app.model.threads
    try:
        loaded = load(found.app.model, found.app.data_path, threads if isinstance(threads, int) else os.cpu_count() or 1, say)
    except ModelLoadError as error:
        fail(error.message)
    arms = engine.ARMS + (engine.TRANSFORMERS_ARMS if with_transformers else ())
    document = engine.run(loaded, arms, articles, max_tokens, rounds, say)
    if not as_json:
        click.echo(engine.table(document))
    click.echo(json.dumps(document))


@bench.command("http")
@CONFIG
@click.option("--workload", "workloads", type=click.Choice([*WORKLOADS, "all"]), multiple=True, default=["cached"], show_default=True)
@click.option("--connections", type=click.IntRange(1, 4096), help="Clients; with --rate the most in flight.  [default: 32; 256]")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Open loop: arrivals per second, whatever the server does.")
@click.option("--requests", type=click.IntRange(1), help="Per workload.  [default: cached 1000, articles 32, zipf 2000, stream 64]")
@click.option("--max-tokens", type=click.IntRange(1), help="Of an answer.  [default: cached and zipf 16, articles and stream 64]")
@click.option("--distinct", type=click.IntRange(1), help="Different questions.  [default: cached 1, zipf 400]")
@click.option("--zipf-s", type=click.FloatRange(0), default=1.0, show_default=True, help="Exponent of zipf.")
@click.option("--cache", is_flag=True, help="Let articles and stream use and fill the answer cache.")
@click.option("--engine", "with_engine", is_flag=True, help="Compare stream with the configured engine alone, in this process.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of that comparison.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, help="Of a request, s.")
@click.option(
    "--duration", "duration_s", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, help="Send no longer, s."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of zipf's draws and of the arrivals.")
@click.option("--url", envvar="FRUGAL_URL", help=f"The running server.  [default: {DEFAULT_URL}, or a server of its own where none runs]")
@click.option("--start", is_flag=True, help="Start a server of its own on CONFIG in any case; it has no feeds and is stopped at the end.")
@click.option("--json", "as_json", is_flag=True, help="Only the JSON document.")
@click.pass_context
def bench_http(context: click.Context, /, config: pathlib.Path, workloads: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Load a server with `cached`, `articles`, `zipf` or `stream`: percentiles, time to first token, requests/s, errors."""
    from serve_app.bench import command

    names: Any = WORKLOADS if "all" in workloads else tuple(dict.fromkeys(workloads))
    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if mistake := command.mistake(names, given):
        raise click.UsageError(mistake)
    say = (lambda _line: None) if as_json else (lambda line: click.echo(line, err=True))
    try:
        document = command.bench_http(lambda: checked(config), names, say, **options)
    except command.ERRORS as error:
        fail(str(error))
    if not as_json:
        click.echo(command.table(document))
    click.echo(json.dumps(document))
    sys.exit(command.exit_code(document))
