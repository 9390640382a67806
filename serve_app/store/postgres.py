"""What is special about PostgreSQL: how it is connected to, how long anything waits for it, and what its errors mean to a person.

Every error that says "not now" becomes a DatabaseUnavailable of one line, without the driver's traceback and without the password.
Tests: tests/postgres.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from serve_app.database_url import DRIVER_REMEDY, shown_url
from serve_app.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

# libpq's own, unless the address has others. Without them a server that vanished is waited for as long as TCP does: a quarter of an hour.
# read-write: of several hosts the one that takes writes; a standby alone is refused at once.
CONNECT = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 30,
    "target_session_attrs": "read-write",
    "application_name": "frugal-serve",
}
# A replica that stands still inside a transaction loses it, so that its locks (the lease!) are free long before anybody gives up waiting.
# SET and not the option of the same name, which poolers refuse.
SESSION = "SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '15s'"
IDLE_CONNECTIONS, MAX_CONNECTIONS = 2, 10  # per process: a server takes 100 in all unless told otherwise
LOCKS = {"migrate": 7_235_417, "evict": 7_235_418, "trim_similar": 7_235_419}  # any numbers, of this program alone in its database
RETRY_S = 2.0
MAX_SHOWN = 400
MAY_NOT = "42501"  # insufficient_privilege: https://www.postgresql.org/docs/current/errcodes-appendix.html


def make_engine(url: str) -> Engine:
    """An engine whose pool finds out about connections that died before it hands them out.

    Raises:
        DatabaseUnavailable: the driver cannot be loaded.
    """
    parts = sqlalchemy.make_url(url)
    options = {name: value for name, value in CONNECT.items() if name not in parts.query}
    try:
        engine = sqlalchemy.create_engine(
            parts,
            pool_pre_ping=True,
            pool_size=IDLE_CONNECTIONS,
            max_overflow=MAX_CONNECTIONS - IDLE_CONNECTIONS,
            connect_args=options,
            hide_parameters=True,  # an article's text is no part of an error message
        )
    except ImportError as error:
        raise DatabaseUnavailable(f"database {shown_url(url)}: no driver ({_line(error)}); {DRIVER_REMEDY}") from None
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "handle_error", _drop_unpinged)
    return engine


@contextlib.contextmanager
def opening(url: str) -> Iterator[None]:
    """Whatever the server refuses inside becomes one line: who, where, what, and the remedy."""
    try:
        yield
    except DBAPIError as error:
        remedy = (
            "give this user the right to create tables there"
            if getattr(error.orig, "sqlstate", None) == MAY_NOT
            else "start it, or correct args.database_url (FRUGAL_DATABASE_URL wins)"
        )
        raise DatabaseUnavailable(f"database {shown_url(url)}: {_shown(error, url)}; {remedy}") from None


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """A server that is gone, stopping, full or locked becomes a DatabaseUnavailable; the log has its words."""
    try:
        yield
    except PoolTimeoutError:
        raise DatabaseUnavailable("all connections to the database are in use; try again shortly", retry_after_s=RETRY_S) from None
    except DBAPIError as error:
        if not (isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated):
            raise
        log.warning("database %s: %s", shown_url(url), _shown(error, url))
        raise DatabaseUnavailable("the database does not answer at the moment; try again shortly", retry_after_s=RETRY_S) from None


def check_encoding(connection: Connection) -> None:
    """Raise DatabaseUnavailable for a database that cannot hold every text."""
    if (encoding := connection.exec_driver_sql("SHOW server_encoding").scalar()) != "UTF8":
        where = shown_url(connection.engine.url.render_as_string())
        raise DatabaseUnavailable(f"database {where}: its encoding is {encoding}; create it with ENCODING 'UTF8' TEMPLATE template0")


def lock(connection: Connection, what: str) -> None:
    """Let one transaction at a time do this, whatever rows it touches."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCKS[what]})")


def _prepare(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(SESSION)
    connection.commit()  # a SET that is rolled back never was


def _drop_unpinged(context: ExceptionContext) -> None:
    """A connection whose ping failed is dropped, whatever the error: libpq can report one that died while it sent as open and busy, and the
    driver then complains about the transaction and not about the connection."""
    if context.is_pre_ping:
        context.is_disconnect = True


def _shown(error: DBAPIError, url: str) -> str:
    password = sqlalchemy.make_url(url).password
    cause = error.orig or error
    line = getattr(getattr(cause, "diag", None), "message_primary", None) or _line(cause)
    return line.replace(str(password), "***") if password else line


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
