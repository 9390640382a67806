"""Stored answers: they come back as they went in or not at all, and the oldest make room."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from sqlalchemy import select, update

from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.store.answers import AnswerStore, StoredAnswer, Totals
from serve_app.store.database import Database
from serve_app.store.schema import answers
from tests.fast.fakes import finish


def stored(number: int = 0, text: str = "two words", created_at: float = 1000.0) -> StoredAnswer:
    return StoredAnswer(f"{number:064x}", "tiny", "tenant", "feed0", text, finish(reason="length"), created_at)


@pytest.fixture
def store(database: Database) -> AnswerStore:
    return AnswerStore(database)


@pytest.mark.parametrize("text", ["two words", "", "emoji 🙂, newline\n, U+2028 \u2028 and NUL \0", "x" * 100_000])
def test_an_answer_comes_back_as_it_went_in(store: AnswerStore, text: str) -> None:
    store.put(stored(text=text))
    assert store.get(stored().key) == stored(text=text)
    assert store.get("f" * 64) is None


def test_log_probabilities_come_back_whatever_their_bytes_and_most_answers_have_none(store: AnswerStore, database: Database) -> None:
    halves = (Candidate(b"\xf0\x9f", -0.1), Candidate(b"\x00\xff\xe2", -3.25))
    told = replace(stored(1), logprobs=(TokenLogprob(halves[0], halves, 3), TokenLogprob(Candidate(b"", -9999.0))))
    store.put(told)
    assert store.get(told.key) == told
    store.put(stored())
    with database.read() as connection:
        finish = connection.execute(select(answers.c.finish).where(answers.c.key == stored().key)).scalar_one()
    assert json.loads(finish) == asdict(stored().finish)  # as answers were stored before there were any


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
