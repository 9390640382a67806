"""What is stored is whole or it is not there, whatever happens to the file or to the process that writes."""

from __future__ import annotations

import itertools
import multiprocessing
import pathlib
import random
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest
from sqlalchemy import select, update

from serve_app.store.answers import AnswerStore, StoredAnswer, Totals
from serve_app.store.database import Database
from serve_app.store.schema import answers
from tests.fast.fakes import finish

KILLS = 15


def stored(number: int = 0, text: str = "two words", created_at: float = 1000.0) -> StoredAnswer:
    return StoredAnswer(f"{number:064x}", "tiny", "tenant", "feed0", text, finish(reason="length"), created_at)


@pytest.fixture
def database(tmp_path: pathlib.Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/frugal.db")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> AnswerStore:
    return AnswerStore(database)


@pytest.mark.parametrize("text", ["two words", "", "emoji 🙂, newline\n, U+2028 \u2028 and NUL \0", "x" * 100_000])
def test_an_answer_comes_back_as_it_went_in(store: AnswerStore, text: str) -> None:
    store.put(stored(text=text))
    assert store.get(stored().key) == stored(text=text)
    assert store.get("f" * 64) is None


def test_the_newer_answer_replaces_the_older_one(store: AnswerStore) -> None:
    store.put(stored(text="old"))
    store.put(stored(text="newer", created_at=2000.0))
    assert store.get(stored().key) == stored(text="newer", created_at=2000.0)
    assert store.totals().entries == 1


def test_a_deleted_answer_is_gone(store: AnswerStore) -> None:
    store.put(stored(1))
    store.put(stored(2))
    store.delete(stored(1).key)
    assert (store.get(stored(1).key), store.get(stored(2).key)) == (None, stored(2))
    assert store.totals().entries == 1


@pytest.mark.parametrize(
    "change", [{"text": "other words"}, {"finish": "{}"}, {"digest": "0" * 64}, {"key": "f" * 64}], ids=lambda change: next(iter(change))
)
def test_a_row_that_was_tampered_with_is_a_miss_and_goes(store: AnswerStore, database: Database, change: dict[str, str]) -> None:
    store.put(stored())
    with database.begin() as connection:
        connection.execute(update(answers).values(change))
    assert store.get(change.get("key", stored().key)) is None
    assert store.totals() == Totals(0, 0)


def test_what_is_too_old_goes_and_the_rest_stays(store: AnswerStore) -> None:
    for number in range(4):
        store.put(stored(number, created_at=1000.0 + number))
    assert store.evict(1_000_000, older_than=1002.0) == 2
    assert [store.get(stored(number).key) is not None for number in range(4)] == [False, False, True, True]


def test_when_it_is_full_the_newest_stay_within_nine_tenths(store: AnswerStore) -> None:
    for number in range(20):
        store.put(stored(number, text="x" * 1000, created_at=1000.0 + number))
    each = store.totals().size_bytes // 20
    assert store.evict(20 * each, older_than=0) == 0
    assert store.evict(10 * each, older_than=0) == 11
    assert store.totals() == Totals(9, 9 * each)
    assert [number for number in range(20) if store.get(stored(number).key)] == list(range(11, 20))


def test_answers_of_the_same_moment_are_evicted_one_by_one(store: AnswerStore) -> None:
    for number in range(10):
        store.put(stored(number))
    each = store.totals().size_bytes // 10
    assert store.evict(5 * each, older_than=0) == 6
    assert store.totals() == Totals(4, 4 * each)


def long_answer(number: int) -> StoredAnswer:
    """Several pages of the file, so that a kill may come between two of them."""
    return stored(number, text=f"answer {number} " * 5000, created_at=float(number))


def put_for_ever(url: str, first: int, said: Connection) -> None:
    """In a child: store answers one after the other, and say each that is stored."""
    store = AnswerStore(Database(url))
    for number in itertools.count(first):
        store.put(long_answer(number))
        said.send(number)


def test_a_process_killed_while_it_stores_leaves_only_whole_answers(database: Database, store: AnswerStore) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    chance, acknowledged = random.Random(7), -1
    for _ in range(KILLS):
        hear, said = context.Pipe(duplex=False)
        child = context.Process(target=put_for_ever, args=(database.url, acknowledged + 1, said), daemon=True)
        child.start()
        said.close()
        for _ in range(chance.randint(1, 6)):
            acknowledged = hear.recv()
        for _ in range(chance.randint(0, 150_000)):  # so that the kill comes anywhere inside the next store
            pass
        child.kill()
        child.join(10)
        while hear.poll():
            try:
                acknowledged = hear.recv()
            except EOFError:
                break
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        keys = list(connection.scalars(select(answers.c.key).order_by(answers.c.created_at)))
    assert [store.get(key) for key in keys] == [long_answer(number) for number in range(len(keys))]
    assert acknowledged < len(keys) <= acknowledged + 2, "what was said to be stored is there"
