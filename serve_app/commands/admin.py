"""admin-key: makes the key that the `cache` commands and /v1/admin need. Tests: tests/fast/test_command_cache.py."""

from __future__ import annotations

import pathlib

import click

from serve_app import admin_key
from serve_app.commands.common import CONFIG, fail, peeked


@click.group("admin-key")
def admin_key_group() -> None:
    """The key of the administrator."""


@admin_key_group.command("new")
@CONFIG
@click.option("--print-only", is_flag=True, help="Keep nothing here: for a cluster, where the hash goes into the configuration.")
def new(config: pathlib.Path, print_only: bool) -> None:
    """Make a key, in place of an older one, print it once, and keep its SHA-256 in CONFIG's data folder."""
    key = admin_key.new_key()
    sha256 = admin_key.sha256_of(key)
    if not print_only:
        path = peeked(config).app.admin_key_path
        try:
            admin_key.keep(path, sha256)
        except OSError as error:
            fail(f"{path}: cannot be written: {error.strerror}; make the folder writable, or use --print-only")
        click.echo(f"kept its SHA-256 in {path}; a running server takes it at once", err=True)
    click.echo(key)
    click.echo("this is the only time that it is shown; hand it to the commands as FRUGAL_ADMIN_KEY", err=True)
    click.echo(f"for a cluster: FRUGAL_ADMIN_KEY_SHA256, or Ingress.user_config.admin_key_sha256: {sha256}", err=True)
