"""Questions for the similarity lookup reach every replica once, and samples of all replicas add up."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from serve_app.messages import Selection
from serve_app.store.answers import AnswerStore
from serve_app.store.database import Database
from serve_app.store.similar import SimilarStore, StoredQuestion, Trial
from tests.contract_store.answers import stored

FIRST = Trial("tiny", 0.85, 0.85)


def question(number: int, embedding: str = "mini") -> StoredQuestion:
    return StoredQuestion(f"{number:064x}", "g" * 64, embedding, f"What is {number}? 🙂\0", bytes([number, 255, 0]))


@pytest.fixture
def similar(database: Database) -> SimilarStore:
    return SimilarStore(database)


def told(found: list[StoredQuestion]) -> list[StoredQuestion]:
    return [replace(one, id=0) for one in found]


def test_a_reader_gets_what_it_has_not_seen_in_order_and_of_its_embedding(similar: SimilarStore) -> None:
    for number in (1, 2, 3):
        similar.add(question(number))
    similar.add(question(4, "other"))
    found = similar.newer(0, "mini", (), 10)
    assert told(found) == [question(1), question(2), question(3)]
    similar.add(question(5))
    seen = {one.id for one in found}
    assert told(similar.newer(max(seen), "mini", seen, 10)) == [question(5)]
    assert told(similar.newer(0, "mini", (), 2)) == [question(3), question(5)]


def test_a_row_that_was_committed_late_is_still_seen(similar: SimilarStore) -> None:
    similar.add(question(1))
    late = similar.newer(0, "mini", (), 10)[0].id
    similar.add(question(2))
    assert told(similar.newer(late + 1, "mini", {late + 1}, 10)) == [question(1)]


def test_the_same_key_again_is_a_new_row_and_an_id_is_never_used_twice(similar: SimilarStore) -> None:
    similar.add(question(1))
    (old,) = similar.newer(0, "mini", (), 10)
    similar.add(replace(question(1), embedding="other"))
    assert similar.newer(0, "mini", (), 10) == []
    (new,) = similar.newer(0, "other", (), 10)
    similar.remove(new.key)
    similar.add(question(2))
    assert similar.newer(0, "mini", (), 10)[0].id > new.id > old.id


def test_the_oldest_go_and_an_empty_table_can_be_trimmed(similar: SimilarStore) -> None:
    similar.trim(2)
    for number in range(5):
        similar.add(question(number))
    similar.trim(2)
    assert told(similar.newer(0, "mini", (), 10)) == [question(3), question(4)]


def test_a_question_whose_answer_was_deleted_goes_with_it(similar: SimilarStore, database: Database) -> None:
    for number in (1, 2):
        AnswerStore(database).put(stored(number))
        similar.add(question(number))
    AnswerStore(database).delete(Selection(key=stored(1).key))
    similar.trim(10)
    assert len(similar.newer(0, "mini", (), 10)) == 2
    similar.trim(10, without_answers=True)
    assert told(similar.newer(0, "mini", (), 10)) == [question(2)]


def test_more_questions_than_a_statement_takes_parameters(similar: SimilarStore) -> None:
    for number in range(1, 120):
        similar.add(replace(question(1), key=f"{number:064x}"))
    assert len(similar.newer(0, "mini", (), 100)) == 100


def test_samples_of_four_replicas_add_up(similar: SimilarStore) -> None:
    start = threading.Barrier(4)

    def sample() -> None:
        start.wait(10)
        for _ in range(10):
            similar.record("settings", FIRST, lambda trial: replace(trial, judged=trial.judged + 1))

    threads = [threading.Thread(target=sample) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert similar.trial("settings") == replace(FIRST, judged=40)
    assert (similar.trial("unknown"), similar.trials()) == (None, [replace(FIRST, judged=40)])
