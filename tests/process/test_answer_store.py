"""What is left in an SQLite file when the process that stores answers in it is killed."""

from __future__ import annotations

import itertools
from multiprocessing.connection import Connection

from sqlalchemy import select

from serve_app.store.answers import AnswerStore, StoredAnswer
from serve_app.store.database import Database
from serve_app.store.schema import answers
from tests.contract_store.answers import stored
from tests.contract_store.killed import kill_while_storing

KILLS = 50


def long_answer(number: int) -> StoredAnswer:
    """Several pages of the file, so that a kill may come between two of them."""
    return stored(number, text=f"answer {number} " * 5000, created_at=float(number))


def put_for_ever(url: str, first: int, said: Connection) -> None:
    """In a child: store answers one after the other, and say each that is stored."""
    store = AnswerStore(Database(url))
    for number in itertools.count(first):
        store.put(long_answer(number))
        said.send(number)


def test_a_process_killed_while_it_stores_leaves_only_whole_answers(database: Database) -> None:
    store = AnswerStore(database)
    acknowledged = kill_while_storing(put_for_ever, database.url, KILLS, most=6)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        keys = list(connection.scalars(select(answers.c.key).order_by(answers.c.created_at)))
    assert [store.get(key) for key in keys] == [long_answer(number) for number in range(len(keys))]
    assert acknowledged < len(keys) <= acknowledged + 2, "what was said to be stored is there"
