"""Where the stored answers are: in the database, or on a server of their own. Tests: tests/valkey/test_outage.py."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.settings import AppSettings
from serve_app.store.answers import AnswerBackend, AnswerStore
from serve_app.store.database import Database

SOCKET_TIMEOUT_S = 2.0  # of one step on Valkey; nobody who waits for an answer waits longer than CacheSettings.store_timeout_s


def open_answers(app: AppSettings, database: Database, on_corrupt: Callable[[], None] = lambda: None) -> AnswerBackend:
    """The store that the settings name. A server need not be there yet. `on_corrupt`: see AnswerStore; it may be called in any thread."""
    if app.answers_url is None:
        return AnswerStore(database, on_corrupt)
    from serve_app.store.valkey import ValkeyAnswers  # only here: the client is an extra

    return ValkeyAnswers(app.answers_url, SOCKET_TIMEOUT_S, on_corrupt)
