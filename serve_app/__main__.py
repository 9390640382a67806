"""The command line `frugal-serve`, the same as `python -m serve_app`: parse, call, print. Tests: tests/fast/test_command_line.py."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
from click.core import ParameterSource

from serve_app import __version__, render
from serve_app.client import DEFAULT_URL, Client, ClientError
from serve_app.database_url import SQLITE
from serve_app.errors import ConfigError, DatabaseUnavailable

CONFIG = click.argument("config", type=click.Path(path_type=pathlib.Path), default=pathlib.Path("serve_config.yaml"))
URL = click.option("--url", default=DEFAULT_URL, envvar="FRUGAL_URL", show_default=True, help="Address of the running server.")
URL_TOO = click.option("--url", help="The same, written behind the command.")  # no default: it would hide one given before the command
JSON = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")
WORKLOADS = ("cached", "articles", "zipf", "stream")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="frugal-serve")
def main() -> None:
    """Answer LLM requests and digest feeds on your own machines at the lowest honest cost."""


@main.command()
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
    from serve_app.program import launcher
    from serve_app.program.profile import ProfileError, choose

    peek = _peeked(config)
    _open_once(peek.app.database)
    try:
        if background:
            launcher.background(config, ("--profile", profile), peek, click.echo)
        else:
            launcher.Launcher(config, peek, choose(profile, peek.app.data_path), click.echo).run()
    except (launcher.StartError, ProfileError) as error:
        _fail(str(error))


@main.command()
@CONFIG
def stop(config: pathlib.Path) -> None:
    """End the program that runs on CONFIG's data folder, and what a killed one left there."""
    from serve_app.program import leftovers, runfile
    from serve_app.program.launcher import STOP_S

    peek = _peeked(config)
    folder = peek.app.data_path
    run = runfile.RunFile(folder).read()
    if run is not None and not runfile.stop(run, peek.drain_s + STOP_S + 4):
        _fail(f"process {run.pid} does not end; look at {folder / 'serve.log'}")
    left = leftovers.find(folder)
    still = leftovers.end(left)
    if still:
        _fail(f"cannot end {leftovers.described(still)}; end it yourself")
    click.echo("stopped" if run is not None or left else f"nothing runs on {folder}")


@main.command()
@CONFIG
@click.option("--lines", "-n", type=click.IntRange(0), default=100, show_default=True, help="The last so many lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
def logs(config: pathlib.Path, lines: int, follow: bool) -> None:
    """Print the log of the program that runs, or ran last, on CONFIG's data folder."""
    from serve_app.program import tail

    path = _peeked(config).app.data_path / "serve.log"
    if not path.exists():
        _fail(f"{path}: there is no log yet; start the program with `frugal-serve serve`")
    with contextlib.suppress(KeyboardInterrupt):
        for line in tail.lines(path, lines, follow=follow):
            click.echo(line)


@main.command()
@CONFIG
def validate(config: pathlib.Path) -> None:
    """Check CONFIG strictly: every key, Serve's too, and what contradicts what."""
    checked = _checked(config)
    model = checked.app.model
    click.echo(f"{config}: valid; {model.id} ({model.quantization}) on {model.device}, http://{checked.host}:{checked.port}")


@main.command()
@click.argument("question")
@click.option("--system", help="System prompt.")
@click.option("--max-tokens", type=int, help="At most this many tokens of answer.")
@click.option("--temperature", type=float, help="0 is greedy; greedy answers are cached.")
@URL
def ask(question: str, system: str | None, max_tokens: int | None, temperature: float | None, url: str) -> None:
    """Ask the model QUESTION and print the answer as it comes."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    with _server(url) as client:
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


@main.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Newest articles first.")
@click.option("--feed", help="Only this feed's id.")
@URL
def digest(limit: int, feed: str | None, url: str) -> None:
    """Print the processed articles, and below them what everything cost."""
    with _server(url) as client:
        articles = list(client.pages("/v1/articles", limit, state="done", feed=feed))
        click.echo(render.digest(articles) or "no article is done yet; see frugal-serve feeds")
        click.echo(f"\n{'costs and performance':-^60}")
        click.echo(render.report(client.get("/v1/report")))


@main.command()
@JSON
@URL
def report(as_json: bool, url: str) -> None:
    """Print what everything cost and what batching and caching avoided."""
    with _server(url) as client:
        data = client.get("/v1/report")
        click.echo(json.dumps(data) if as_json else render.report(data))


@main.command()
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@click.option("--dashboard", envvar="RAY_DASHBOARD_ADDRESS", help="Ray's dashboard; by default that of the run on this machine.")
@JSON
@URL
def status(watch: bool, dashboard: str | None, as_json: bool, url: str) -> None:
    """Print whether the server is ready, and every deployment and replica as Serve sees it."""
    from serve_app.program import tail
    from serve_app.serve_status import state

    dashboard = dashboard or _own_dashboard()
    with _server(url) as client, contextlib.suppress(KeyboardInterrupt):
        for again in tail.every(tail.WATCH_S, forever=watch):
            data = state(client, dashboard)
            if again and not as_json:
                click.clear()
            click.echo(json.dumps(data) if as_json else render.status(data))
            if data["note"] and not as_json:
                click.echo(data["note"], err=True)
        if not data["ready"]:
            sys.exit(1)


@main.group(invoke_without_command=True)
@JSON
@URL
@click.pass_context
def feeds(context: click.Context, as_json: bool, url: str) -> None:
    """List the feeds and their health; add, refresh or remove one."""
    context.obj = url
    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json goes with the list alone; leave it out here")
        return
    with _server(url) as client:
        data = client.get("/v1/feeds")
        click.echo(json.dumps(data) if as_json else render.feeds(data["data"]))


@feeds.command("add")
@click.argument("address")
@URL_TOO
@click.pass_obj
def add_feed(given: str, address: str, url: str | None) -> None:
    """Follow the feed at ADDRESS from now on."""
    with _server(url or given) as client:
        click.echo(render.feeds([client.post("/v1/feeds", {"url": address})]))


@feeds.command("refresh")
@click.argument("feed_id")
@URL_TOO
@click.pass_obj
def refresh_feed(given: str, feed_id: str, url: str | None) -> None:
    """Check a feed now."""
    with _server(url or given) as client:
        click.echo(render.feeds([client.post(f"/v1/feeds/{feed_id}/refresh")]))


@feeds.command("remove")
@click.argument("feed_id")
@URL_TOO
@click.pass_obj
def remove_feed(given: str, feed_id: str, url: str | None) -> None:
    """Forget a feed that was added by `add`, and its articles."""
    with _server(url or given) as client:
        client.delete(f"/v1/feeds/{feed_id}")
        click.echo(f"removed {feed_id}")


@main.group()
def bench() -> None:
    """Measure this machine."""


@bench.command("engine")
@CONFIG
@click.option("--articles", type=click.IntRange(1), default=16, show_default=True, help="Articles of the sample feed, in turn.")
@click.option("--max-tokens", type=click.IntRange(1), default=32, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Only the JSON document.")
def bench_engine(config: pathlib.Path, articles: int, max_tokens: int, rounds: int, as_json: bool) -> None:
    """One request at a time against static batches of 4, 8 and 16."""
    checked = _checked(config)
    from serve_app.model.source import stay_offline

    stay_offline(checked.app.model.source)  # before the imports below
    from serve_app.bench import engine
    from serve_app.errors import ModelLoadError
    from serve_app.model.loader import load

    say = (lambda _line: None) if as_json else (lambda line: click.echo(line, err=True))
    threads = checked.app.model.threads
    try:
        loaded = load(checked.app.model, checked.app.data_path, threads if isinstance(threads, int) else os.cpu_count() or 1, say)
    except ModelLoadError as error:
        _fail(error.message)
    document = engine.run(loaded, (1, 4, 8, 16), articles, max_tokens, rounds, say)
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
        document = command.bench_http(lambda: _checked(config), names, say, **options)
    except command.ERRORS as error:
        _fail(str(error))
    if not as_json:
        click.echo(command.table(document))
    click.echo(json.dumps(document))
    sys.exit(command.exit_code(document))


def _checked(path: pathlib.Path) -> Any:
    from serve_app.config_file import load_config

    return _told(path, load_config)


def _told(path: pathlib.Path, load: Callable[[pathlib.Path], Any]) -> Any:
    try:
        return load(path)
    except ConfigError as error:
        _fail("\n".join(f"{path}: {problem}" if not problem.startswith(str(path)) else problem for problem in error.problems))


def _peeked(path: pathlib.Path) -> Any:
    from serve_app.program.peek import peek

    return _told(path, peek)


def _own_dashboard() -> str | None:
    """Of the run on the configuration in the current folder."""
    from serve_app.program.peek import peek
    from serve_app.program.runfile import RunFile

    with contextlib.suppress(ConfigError):
        run = RunFile(peek(pathlib.Path("serve_config.yaml")).app.data_path).read()
        return run.dashboard if run is not None else None
    return None


def _open_once(database: str) -> None:
    """Without its database every replica would fail, minutes from now and each with a traceback; an SQLite file is always there."""
    if database.startswith(SQLITE):
        return
    from serve_app.store.database import Database

    try:
        Database(database).close()
    except DatabaseUnavailable as error:
        _fail(error.message)


@contextlib.contextmanager
def _server(url: str) -> Iterator[Client]:
    try:
        with Client(url) as client:
            yield client
    except ClientError as error:
        _fail(str(error))


def _fail(message: str) -> Any:
    click.echo(message, err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
