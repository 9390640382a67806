"""Stored answers as rows of a database: what is in them, and what becomes of rows that somebody changed."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from sqlalchemy import select, update

from serve_app.store.answers import AnswerStore, Totals
from serve_app.store.database import Database
from serve_app.store.schema import answers
from tests.contract_store.answers import stored


@pytest.fixture
def damaged() -> list[None]:
    """One item for each row that the store threw away."""
    return []


@pytest.fixture
def store(database: Database, damaged: list[None]) -> AnswerStore:
    return AnswerStore(database, lambda: damaged.append(None))


def test_most_answers_have_no_log_probabilities_and_say_nothing_of_them(store: AnswerStore, database: Database) -> None:
    store.put(stored())
    with database.read() as connection:
        finish = connection.execute(select(answers.c.finish).where(answers.c.key == stored().key)).scalar_one()
    assert json.loads(finish) == asdict(stored().finish)  # as answers were stored before there were any


@pytest.mark.parametrize(
    "change",
    [{"text": "other words"}, {"finish": "{}"}, {"digest": "0" * 64}, {"key": "f" * 64}, {"created_at": 1e9}, {"ttl_s": 1e9}],
    ids=lambda change: next(iter(change)),
)
def test_a_row_that_was_tampered_with_is_a_miss_and_goes(
    store: AnswerStore, database: Database, damaged: list[None], change: dict[str, str]
) -> None:
    store.put(stored())
    with database.begin() as connection:
        connection.execute(update(answers).values(change))
    assert store.get(change.get("key", stored().key)) is None
    assert (store.totals(), damaged) == (Totals(0, 0), [None])
