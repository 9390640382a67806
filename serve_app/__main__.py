"""The command line `frugal-serve`, the same as `python -m serve_app`. Tests: tests/fast/test_command_line.py."""

from __future__ import annotations

import click

from serve_app import __version__
from serve_app.commands import admin, articles, bench, cache, feeds, program, server


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="frugal-serve")
def main() -> None:
    """Answer LLM requests and digest feeds on your own machines at the lowest honest cost."""


for command in (
    program.serve,
    program.stop,
    program.status,
    program.logs,
    program.validate,
    server.ask,
    server.digest,
    server.report,
    feeds.feeds,
    articles.articles,
    cache.cache,
    admin.admin_key_group,
    bench.bench,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
