"""bench engine, bench http, bench cache, bench lookup, bench feeds. Tests: tests/fast/test_bench_*.py, tests/model/test_bench.py,
tests/corpus/test_bench_feeds.py."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable, Collection
from typing import Any

import click
from click.core import ParameterSource

from serve_app.bench.engine.options import ARMS, Options, arms_named, mistake
from serve_app.bench.engine.options import WORKLOADS as ENGINE_WORKLOADS
from serve_app.client import DEFAULT_URL
from serve_app.commands.common import CONFIG, checked, fail

WORKLOADS = ("cached", "articles", "zipf", "stream")

RUNNING_URL = click.option(
    "--url", envvar="FRUGAL_URL", help=f"The running server.  [default: {DEFAULT_URL}, or a server of its own where none runs]"
)
START = click.option(
    "--start", is_flag=True, help="Start a server of its own on CONFIG in any case; it has no feeds and is stopped at the end."
)
TIMEOUT = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, help="Of a request, s."
)
ONLY_JSON = click.option("--json", "as_json", is_flag=True, help="Only the JSON document.")


@click.group()
def bench() -> None:
    """Measure this machine."""


@bench.command("engine")
@CONFIG
@click.option("--workload", "workloads", type=click.Choice([*ENGINE_WORKLOADS, "all"]), multiple=True, default=["all"], show_default=True)
@click.option("--arm", "arms", type=click.Choice([arm.name for arm in ARMS]), multiple=True, help="Only these.  [default: all]")
@click.option("--requests", type=click.IntRange(1), help="Per workload.  [default: articles 96, skewed 256, chat 128]")
@click.option("--max-tokens", type=click.IntRange(1), help="Most of an answer.  [default: articles and chat 64, skewed 512]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="After the first, only the best sizes run again.")
@click.option("--priority", type=click.Choice(["interactive", "batch"]), default="interactive", show_default=True, help="Of the requests.")
@click.option("--duration", "duration_s", type=click.FloatRange(1), default=20.0, show_default=True, help="Of interference, s.")
@ONLY_JSON
@click.pass_context
def bench_engine(context: click.Context, /, config: pathlib.Path, workloads: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """The engines alone: one request at a time, static batches, plain `generate` and slots, on `articles`, `skewed` and `chat`.

    And a step by itself (`steps`), and streams beside long prompts (`interference`).
    """
    names = ENGINE_WORKLOADS if "all" in workloads else workloads
    if wrong := mistake(names, _given(context, options), options["arms"]):
        raise click.UsageError(wrong)
    found = checked(config)
    from serve_app.model.source import stay_offline

    stay_offline(found.app.model.source)  # before the imports below
    from serve_app.bench.engine.arms import Bench
    from serve_app.bench.engine.command import run
    from serve_app.bench.engine.table import table
    from serve_app.errors import FrugalError
    from serve_app.model.loader import load
    from serve_app.model.openmp import compute_apart
    from serve_app.resources import num_cores

    say = _say(as_json)
    threads = found.app.model.threads
    num_threads = threads if isinstance(threads, int) else num_cores()
    asked = Options(names, **{**options, "arms": arms_named(options["arms"])})
    try:
        loaded = compute_apart(lambda: load(found.app.model, found.app.data_path, num_threads, say))
        document = run(Bench(loaded, found.app.model, found.user_configs["Model"]), asked, say)
    except FrugalError as error:
        fail(error.message)
    if not as_json:
        click.echo(table(document))
    click.echo(json.dumps(document))


def _say(as_json: bool) -> Callable[[str], None]:
    """What happens meanwhile, on standard error; nothing where a program reads along."""
    return (lambda _line: None) if as_json else (lambda line: click.echo(line, err=True))


def _given(context: click.Context, options: Collection[str]) -> set[str]:
    """The options that were written, not left at their defaults."""
    return {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


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
@TIMEOUT
@click.option(
    "--duration", "duration_s", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True, help="Send no longer, s."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of zipf's draws and of the arrivals.")
@RUNNING_URL
@START
@ONLY_JSON
@click.pass_context
def bench_http(context: click.Context, /, config: pathlib.Path, workloads: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Load a server with `cached`, `articles`, `zipf` or `stream`: percentiles, time to first token, requests/s, errors."""
    from serve_app.bench import command

    names: Any = WORKLOADS if "all" in workloads else tuple(dict.fromkeys(workloads))
    if wrong := command.mistake(names, _given(context, options)):
        raise click.UsageError(wrong)
    try:
        document = command.bench_http(lambda: checked(config), names, _say(as_json), **options)
    except command.ERRORS as error:
        fail(str(error))
    if not as_json:
        click.echo(command.table(document))
    click.echo(json.dumps(document))
    sys.exit(command.exit_code(document))


@bench.command("cache")
@CONFIG
@click.option("--requests", type=click.IntRange(1), default=2000, show_default=True, help="In each arm.")
@click.option("--connections", type=click.IntRange(1, 4096), default=32, show_default=True, help="Clients; each waits for its answer.")
@click.option("--keys", type=click.IntRange(1), default=400, show_default=True, help="Different questions.")
@click.option("--zipf", "zipf_s", type=click.FloatRange(0), default=1.0, show_default=True, help="Exponent: 0 asks all alike.")
@click.option("--max-tokens", type=click.IntRange(1), default=16, show_default=True, help="Of an answer.")
@TIMEOUT
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@RUNNING_URL
@START
@ONLY_JSON
@click.pass_context
def bench_cache(context: click.Context, /, config: pathlib.Path, as_json: bool, **options: Any) -> None:
    """What the answer cache is worth: short questions, a few of them often, through it and past it in turn.

    Its first arm alone, or at a fixed rate of arrivals, is `bench http --workload zipf`.
    """
    from serve_app.bench import command

    if {"start", "url"} <= _given(context, options):
        raise click.UsageError(command.START_OR_URL)
    try:
        document = command.bench_cache(lambda: checked(config), _say(as_json), **options)
    except command.ERRORS as error:
        fail(str(error))
    if not as_json:
        click.echo(command.cache_table(document))
    click.echo(json.dumps(document))
    sys.exit(command.exit_code(document))


@bench.command("lookup")
@click.option(
    "--entries",
    type=click.IntRange(0, 100_000_000),
    default=100_000,
    show_default=True,
    help="Stored answers of the larger store; a million takes 1.5 GB of the temporary folder; 0: only memory.",
)
@click.option("--requests", type=click.IntRange(20), default=2000, show_default=True, help="Hits over HTTP, of each store.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True, help="Of each figure of memory.")
@ONLY_JSON
def bench_lookup(entries: int, requests: int, seconds: float, as_json: bool) -> None:
    """How fast a stored answer is found: in memory, and over HTTP with few and with many stored answers. Loads no model."""
    from serve_app.bench import lookup

    document = lookup.run(entries, requests, seconds, _say(as_json))
    if not as_json:
        click.echo(lookup.table(document))
    click.echo(json.dumps(document))


@bench.command("feeds")
@click.option("--feeds", type=click.IntRange(1, 20_000), default=200, show_default=True)
@click.option("--hosts", type=click.IntRange(1), default=40, show_default=True, help="Host names, among which they are shared out.")
@click.option("--interval", "interval_s", type=click.FloatRange(1), default=15.0, show_default=True, help="Between two polls of a feed, s.")
@click.option("--duration", "duration_s", type=click.FloatRange(1), default=60.0, show_default=True, help="Seconds.")
@ONLY_JSON
def bench_feeds(as_json: bool, **options: Any) -> None:
    """Poll many feeds of a site on this machine: no poll may be missed, no host asked twice at once or within a second."""
    from serve_app.bench import feeds

    load = feeds.Load(**options)
    if wrong := load.mistake():
        raise click.UsageError(wrong)
    document = feeds.run(load, (lambda _line: None) if as_json else (lambda line: click.echo(line, err=True)))
    if not as_json:
        click.echo(feeds.table(document))
    click.echo(json.dumps(document))
    sys.exit(0 if document["ok"] else 1)
