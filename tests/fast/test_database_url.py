"""Which database an address names: what is taken, what is refused with the remedy, and that no password is ever shown."""

from __future__ import annotations

import importlib.util
import pathlib
import socket

import pytest

from serve_app import errors
from serve_app.config_file import check_config
from serve_app.database_url import normal_url, shown_url
from serve_app.settings import AppSettings
from serve_app.store.database import Database

SECRET = "hunter2"
FORMS = "must be sqlite:///<file> or postgresql+psycopg://<user>:<password>@<host>/<database>"


def problem_of(url: str) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        AppSettings.load({"database_url": url}, "args")
    return caught.value.message


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_spelling_of_postgresql_means_the_one_driver(scheme: str) -> None:
    app = AppSettings.load({"database_url": f"{scheme}://ann:{SECRET}@db:5433/frugal?sslmode=require"})
    assert app.database == f"postgresql+psycopg://ann:{SECRET}@db:5433/frugal?sslmode=require" == app.absolute().database


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"mysql://ann:{SECRET}@db/frugal", f"{FORMS}, not mysql:...; remove it for SQLite in data_dir"),
        (f"postgresql+asyncpg://ann:{SECRET}@db/frugal", f"{FORMS}, not postgresql+asyncpg:...; remove it for SQLite in data_dir"),
        (f"ann {SECRET}", f"{FORMS}; remove it for SQLite in data_dir"),
        ("", f"{FORMS}; remove it for SQLite in data_dir"),
        (f"postgresql://ann:{SECRET}@db", "names no database; write postgresql+psycopg://<user>:<password>@<host>/<database>"),
        (
            f"postgresql://ann:{SECRET}@db:{SECRET}/frugal",
            "is not an address; write postgresql+psycopg://<user>:<password>@<host>:<port>/<database>, special characters as %40",
        ),
    ],
)
def test_any_other_address_is_refused_with_the_remedy_and_without_the_password(url: str, problem: str) -> None:
    assert problem_of(url) == f"args.database_url: {problem}"


def test_a_missing_driver_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    problem = "PostgreSQL needs the driver psycopg, which is not installed; pip install 'frugal-serve[postgres]'"
    assert problem_of("postgresql://db/frugal") == f"args.database_url: {problem}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://ann:{SECRET}@db:5433/frugal", "postgresql://ann@db:5433/frugal"),
        (f"postgresql://db/frugal?password={SECRET}", "postgresql://db/frugal"),
        (f"postgresql://ann:{SECRET}%40@/frugal?host=/run/postgresql", "postgresql://ann@/run/postgresql/frugal"),
        (f"postgresql://ann:{SECRET}@/frugal?host=one&host=two", "postgresql://ann@one,two/frugal"),
        ("sqlite:////srv/frugal.db", "sqlite:////srv/frugal.db"),
    ],
)
def test_who_and_where_are_shown_and_the_password_is_not(url: str, shown: str) -> None:
    assert shown_url(normal_url(url)) == shown


def test_the_settings_do_not_show_it_either() -> None:
    assert SECRET not in repr(AppSettings(database_url=f"postgresql://ann:{SECRET}@db/frugal"))


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    app = AppSettings(data_dir=str(tmp_path), database_url="sqlite:////srv/mine.db")
    monkeypatch.setenv("FRUGAL_DATABASE_URL", f"postgres://ann:{SECRET}@db/frugal")
    assert app.absolute().database == f"postgresql+psycopg://ann:{SECRET}@db/frugal" == app.absolute().absolute().database
    monkeypatch.setenv("FRUGAL_DATABASE_URL", "")
    assert app.absolute().database == "sqlite:////srv/mine.db"


def test_a_wrong_address_in_the_environment_is_a_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUGAL_DATABASE_URL", f"oracle://ann:{SECRET}@db/frugal")
    application = {"import_path": "serve_app.graph:build"}
    with pytest.raises(errors.ConfigError) as caught:
        check_config({"http_options": {"host": "127.0.0.1"}, "applications": [application]})
    assert caught.value.problems == [f"FRUGAL_DATABASE_URL: {FORMS}, not oracle:...; remove it for SQLite in data_dir"]


def test_a_server_that_is_not_there_is_one_line() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    with pytest.raises(errors.DatabaseUnavailable) as caught:
        Database(f"postgresql+psycopg://ann:{SECRET}@127.0.0.1:{free_port}/frugal")
    message = caught.value.message
    assert message.startswith(f"database postgresql://ann@127.0.0.1:{free_port}/frugal: ")
    assert "Connection refused" in message
    assert message.endswith("; start it, or correct args.database_url (FRUGAL_DATABASE_URL wins)")
    assert SECRET not in message
    assert len(message.splitlines()) == 1
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True), "no traceback of the driver below it"
