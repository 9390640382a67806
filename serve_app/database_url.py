"""Pure: which database an address names, in the one form that SQLAlchemy takes, and how it may be shown.

A password never leaves this file in words: `shown_url` builds what people see out of the parts that are none.
Tests: tests/fast/test_database_url.py.
"""

from __future__ import annotations

import importlib.util
import re

SQLITE = "sqlite:///"
POSTGRES = "postgresql+psycopg://"
FORMS = f"{SQLITE}<file> or {POSTGRES}<user>:<password>@<host>/<database>"
DRIVER_REMEDY = "pip install 'frugal-serve[postgres]'"


def normal_url(url: str) -> str:
    """The address as SQLAlchemy takes it: `postgresql://` and `postgres://`, which hosters hand out, mean the driver psycopg.

    Raises:
        ValueError: it names no database that the store runs on, with the remedy and without the password.
    """
    if url.startswith(SQLITE):
        return url
    found = re.match(r"(?:postgres|postgresql|postgresql\+psycopg)://", url)
    if found is None:
        scheme = re.match(r"[A-Za-z0-9+._-]{1,40}:", url)  # nothing else of it is shown: there may be a password anywhere
        raise ValueError(f"must be {FORMS}{f', not {scheme[0]}...' if scheme else ''}; remove it for SQLite in data_dir")
    if importlib.util.find_spec("psycopg") is None:
        raise ValueError(f"PostgreSQL needs the driver psycopg, which is not installed; {DRIVER_REMEDY}")
    url = POSTGRES + url[found.end() :]
    _check(url)
    return url


def shown_url(url: str) -> str:
    """Who and where, for people: `postgresql://user@host:port/database`, or the file."""
    if not url.startswith(POSTGRES):
        return url
    import sqlalchemy  # only here: every start of the command line imports the settings, and most name no database

    parts = sqlalchemy.make_url(url)
    host = parts.host or parts.query.get("host") or "localhost"
    where = host if isinstance(host, str) else ",".join(host)
    user = f"{parts.username}@" if parts.username else ""
    return f"postgresql://{user}{where}{f':{parts.port}' if parts.port else ''}/{parts.database or ''}"


def _check(url: str) -> None:
    import sqlalchemy

    try:
        parts = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # their messages may show the address
        raise ValueError(
            f"is not an address; write {POSTGRES}<user>:<password>@<host>:<port>/<database>, special characters as %40"
        ) from None
    if not parts.database:
        raise ValueError(f"names no database; write {POSTGRES}<user>:<password>@<host>/<database>")
