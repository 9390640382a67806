"""Stored answers in SQL: one row per key, checked by a digest when it is read, bounded in bytes and age.

A row that does not match its digest (torn, edited, of another version) is a miss and is deleted. Only answers that ended cleanly come here.
Tests: tests/contract_store/answers.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select

from serve_app.logprobs import TokenLogprob, pack, unpack
from serve_app.messages import Finish, Usage
from serve_app.store.database import Database
from serve_app.store.schema import answers

EVICT_TO = 0.9  # of max_bytes, so that not every put evicts


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A whole answer and where it came from. `created_at` is Unix time in seconds."""

    key: str
    model: str
    scope: str
    feed_id: str
    text: str
    finish: Finish
    created_at: float
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """How much is stored."""

    entries: int
    size_bytes: int


class AnswerStore:
    """Answers in the table `answers`. All calls block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> StoredAnswer | None:
        """The answer under `key`, or None; a row that fails its digest is deleted."""
        with self._database.read() as connection:
            row = connection.execute(select(answers).where(answers.c.key == key)).mappings().first()
        if row is None:
            return None
        if row["digest"] != _digest(key, row["text"], row["finish"]):
            self.delete(key)
            return None
        finish, logprobs = _ending_from(row["finish"])
        return StoredAnswer(key, row["model"], row["scope"], row["feed_id"], row["text"], finish, row["created_at"], logprobs)

    def put(self, answer: StoredAnswer) -> None:
        """Store, replacing what stood under the key."""
        logprobs = {"logprobs": pack(answer.logprobs)} if answer.logprobs else {}
        finish = json.dumps({**dataclasses.asdict(answer.finish), **logprobs}, sort_keys=True)
        values: dict[str, Any] = {
            "key": answer.key,
            "model": answer.model,
            "scope": answer.scope,
            "feed_id": answer.feed_id,
            "text": answer.text,
            "finish": finish,
            "digest": _digest(answer.key, answer.text, finish),
            "size_bytes": len(answer.text.encode("utf-8", "surrogatepass")) + len(finish) + 200,  # 200: key, digest, row
            "created_at": answer.created_at,
        }
        statement = self._database.insert(answers).values(values)
        with self._database.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=values))

    def delete(self, key: str) -> None:
        """Forget one answer."""
        with self._database.begin() as connection:
            connection.execute(delete(answers).where(answers.c.key == key))

    def totals(self) -> Totals:
        """Entries and bytes."""
        with self._database.read() as connection:
            entries, size = connection.execute(select(func.count(), func.coalesce(func.sum(answers.c.size_bytes), 0))).one()
        return Totals(int(entries), int(size))

    def evict(self, max_bytes: int, older_than: float) -> int:
        """Drop what was created before the Unix time `older_than`, then the oldest until 90 % of `max_bytes` is left; how many went."""
        with self._database.begin() as connection:
            self._database.lock(connection, "evict")  # every shard does this; two that delete the same rows in two orders wait for ever
            gone = connection.execute(delete(answers).where(answers.c.created_at < older_than)).rowcount
            size = int(connection.scalar(select(func.coalesce(func.sum(answers.c.size_bytes), 0))) or 0)
            if size <= max_bytes:
                return gone
            running = func.sum(answers.c.size_bytes).over(order_by=(answers.c.created_at.desc(), answers.c.key))
            ranked = select(answers.c.key, running.label("running")).subquery()
            over = select(ranked.c.key).where(ranked.c.running > max_bytes * EVICT_TO)
            return gone + connection.execute(delete(answers).where(answers.c.key.in_(over))).rowcount


def _digest(key: str, text: str, finish: str) -> str:
    return hashlib.sha256(f"{key}\n{finish}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _ending_from(text: str) -> tuple[Finish, tuple[TokenLogprob, ...]]:
    """Most answers were stored without log-probabilities."""
    fields = json.loads(text)
    logprobs = unpack(fields.pop("logprobs", ()))
    return Finish(**{**fields, "usage": Usage(**fields["usage"])}), logprobs
