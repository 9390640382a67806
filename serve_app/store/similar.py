"""Questions that the similarity lookup compares with, and what shadow sampling has found out. All calls block.

Every AnswerCache replica adds the questions whose answers it stores and reads those of the others: a question goes to a replica by its
exact key, and one that means the same may well go to another. Tests: tests/contract_store/similar.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, exists, func, select

from serve_app.store.database import Database
from serve_app.store.schema import answers
from serve_app.store.schema import similar_questions as questions
from serve_app.store.schema import similar_trials as trials

OVERLAP = 256  # on PostgreSQL a smaller id may be committed after a larger one: so many are looked at again


@dataclass(frozen=True, slots=True)
class StoredQuestion:
    """`key` is that of the stored answer, `group` that of everything but the question's text, `vector` float16, little-endian."""

    key: str
    group: str
    embedding: str
    question: str
    vector: bytes
    id: int = 0  # given by the store, growing


@dataclass(frozen=True, slots=True)
class Trial:
    """What is known about one model's similar hits under one set of settings.

    `threshold` is the one in force and `configured` where it began; above 1 the lookup is off. `judged` and `wrong` count at this
    threshold, `all_judged` and `all_wrong` from the beginning.
    """

    model: str
    configured: float
    threshold: float
    judged: int = 0
    wrong: int = 0
    all_judged: int = 0
    all_wrong: int = 0
    updated_at: float = 0.0

    @property
    def off(self) -> bool:
        """Nothing is similar enough any more."""
        return self.threshold > 1.0


class SimilarStore:
    """The tables `similar_questions` and `similar_trials`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, question: StoredQuestion) -> None:
        """Remember a question, in place of what stood under its key."""
        values = {name: getattr(question, name) for name in ("key", "embedding", "question", "vector")} | {"group_key": question.group}
        with self._database.begin() as connection:
            connection.execute(delete(questions).where(questions.c.key == question.key))
            self._database.insert_new(connection, questions, values)

    def remove(self, key: str) -> None:
        """Forget a question."""
        with self._database.begin() as connection:
            connection.execute(delete(questions).where(questions.c.key == key))

    def newer(self, after: int, embedding: str, seen: Collection[int], limit: int) -> list[StoredQuestion]:
        """The latest `limit` questions of this embedding, oldest first, that came after the id `after` or late, without those `seen`."""
        of_it = (questions.c.id > after - OVERLAP) & (questions.c.embedding == embedding)
        with self._database.read() as connection:
            ids = connection.scalars(select(questions.c.id).where(of_it).order_by(questions.c.id.desc()).limit(limit)).all()
            wanted = [number for number in reversed(ids) if number not in seen]
            found: list[StoredQuestion] = []
            for start in range(0, len(wanted), 500):  # databases bound the number of parameters
                few = select(questions).where(questions.c.id.in_(wanted[start : start + 500])).order_by(questions.c.id)
                found += [_question(row) for row in connection.execute(few).mappings()]
        return found

    def trim(self, max_entries: int, *, without_answers: bool = False) -> None:
        """Forget all but the latest; about that many where ids are missing. `without_answers`: also those whose answers are not in this
        database any more, for whatever reason they went; only where answers are kept here."""
        with self._database.begin() as connection:
            self._database.lock(connection, "trim_similar")
            last = connection.scalar(select(func.max(questions.c.id)))
            if last is not None:
                connection.execute(delete(questions).where(questions.c.id <= last - max_entries))
            if without_answers:
                connection.execute(delete(questions).where(~exists().where(answers.c.key == questions.c.key)))

    def trial(self, trial_id: str) -> Trial | None:
        """What is known under one set of settings."""
        with self._database.read() as connection:
            row = connection.execute(select(trials).where(trials.c.id == trial_id)).mappings().first()
        return None if row is None else _trial(row)

    def record(self, trial_id: str, first: Trial, change: Callable[[Trial], Trial]) -> Trial:
        """Change a trial, beginning with `first` where there is none; replicas that do so at once lose nothing."""
        with self._database.begin() as connection:
            self._database.insert_new(connection, trials, {"id": trial_id, **dataclasses.asdict(first)})
            row = connection.execute(select(trials).where(trials.c.id == trial_id).with_for_update()).mappings().one()
            changed = change(_trial(row))
            connection.execute(trials.update().where(trials.c.id == trial_id).values(dataclasses.asdict(changed)))
        return changed

    def trials(self) -> list[Trial]:
        """All, the latest first."""
        with self._database.read() as connection:
            return [_trial(row) for row in connection.execute(select(trials).order_by(trials.c.updated_at.desc())).mappings()]


def _question(row: Any) -> StoredQuestion:
    return StoredQuestion(row["key"], row["group_key"], row["embedding"], row["question"], bytes(row["vector"]), row["id"])


def _trial(row: Any) -> Trial:
    return Trial(**{field.name: row[field.name] for field in dataclasses.fields(Trial)})
