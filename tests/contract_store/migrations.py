"""What an older version stored is there after the upgrade."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import alembic.command
import alembic.config
import sqlalchemy as sa

from serve_app.messages import Selection
from serve_app.store import database as module
from serve_app.store.answers import AnswerStore, StoredAnswer
from serve_app.store.articles import ArticleStore
from serve_app.store.database import Database
from tests.contract_store.answers import stored

COLUMNS = ("key", "model", "scope", "feed_id", "text", "finish", "digest", "size_bytes", "created_at")


def at_revision(url: str, revision: str) -> sa.Engine:
    """A new database as that revision made it."""
    Database(url).close()  # creates the file
    database = Database(url)
    config = alembic.config.Config()
    config.set_main_option("script_location", f"{module.__file__.rsplit('/', 1)[0]}/migrations")
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, revision)
    return database.engine


def old_row(answer: StoredAnswer) -> dict[str, object]:
    """The row of version 1, whose digest knew no age."""
    finish = json.dumps(asdict(answer.finish), sort_keys=True)
    digest = hashlib.sha256(f"{answer.key}\n{finish}\n{answer.text}".encode()).hexdigest()
    escaped = answer.text.replace("\\", "\\005c").replace("\0", "\\0000")
    return dict(zip(COLUMNS, (answer.key, "tiny", "tenant", "feed0", escaped, finish, digest, 900, answer.created_at), strict=True))


def test_feeds_that_left_the_configuration_before_it_was_known_who_paused_them(empty_url: str) -> None:
    engine = at_revision(empty_url, "0005")
    names = ("id", "url", "origin", "state", "title", "num_errors", "next_check_at", "created_at")
    rows = [dict(zip(names, (state, f"https://{state}.test", "config", state, "", 0, 1.0, 1.0), strict=True)) for state in ("ok", "paused")]
    with engine.begin() as connection:
        connection.execute(sa.insert(sa.table("feeds", *map(sa.column, names))), rows)
    engine.dispose()
    database = Database(empty_url)
    assert {feed.id: feed.paused_by for feed in ArticleStore(database).feeds()} == {"ok": None, "paused": "config"}
    database.close()


def test_answers_of_version_1_are_found_after_the_upgrade_and_damaged_ones_are_not(empty_url: str) -> None:
    engine = at_revision(empty_url, "0001")
    table = sa.table("answers", *map(sa.column, COLUMNS))
    answers = [stored(number, text=f"NUL \0 and \\ {number}", created_at=1000.1 + number) for number in range(1200)]
    with engine.begin() as connection:
        connection.execute(sa.insert(table), [old_row(answer) for answer in answers])
        connection.execute(sa.update(table).where(table.c.key == answers[7].key).values(text="other words"))
    engine.dispose()
    database = Database(empty_url)
    store = AnswerStore(database)
    assert [store.get(answer.key) for answer in answers[:9]] == [None if number == 7 else answers[number] for number in range(9)]
    assert (store.totals().entries, store.get(answers[-1].key)) == (1199, answers[-1])
    (entry,) = store.page(Selection(key=answers[0].key), 1)
    assert (entry.compute_s, entry.hits, entry.size_bytes > 900, entry.value > 0) == (answers[0].finish.compute_s, 0, True, True)
    database.close()
