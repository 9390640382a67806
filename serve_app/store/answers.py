"""Stored answers in SQL: one row per key, checked by a digest when it is read, bounded in bytes and age.

A row that does not match its digest (torn, edited, of another version) is a miss, is told of and is deleted. Only answers that ended
cleanly come here. What makes room is what saves the least, see `AnswerStore.evict`. The texts are not compressed: a row stays readable to
every SQL tool, and an answer of some hundred bytes gains nothing. The same promises over Valkey: valkey.py.
Tests: tests/contract_store/answers.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import ColumnElement, RowMapping, and_, bindparam, delete, func, or_, select, true, tuple_, update

from serve_app.logprobs import TokenLogprob, pack, unpack
from serve_app.messages import Finish, Selection, Usage
from serve_app.store.database import Database
from serve_app.store.schema import EXPIRES_AT, answer_clock, answers

log = logging.getLogger(__name__)

EVICT_TO = 0.9  # of max_bytes, so that not every put evicts
EVICT_STEP = 1000  # rows
_CLOCK = select(answer_clock.c.value).scalar_subquery()
ROW_BYTES = 500  # of a row beside its text and ending: key, digest, numbers, three index entries


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A whole answer and where it came from. `created_at` is Unix time in seconds; `ttl_s` the time to live that its request asked for."""

    key: str
    model: str
    scope: str
    feed_id: str
    text: str
    finish: Finish
    created_at: float
    logprobs: tuple[TokenLogprob, ...] = ()
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """How much is stored."""

    entries: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer without its text. `value` is its place in the line for eviction, lowest first."""

    key: str
    model: str
    feed_id: str
    created_at: float
    ttl_s: float | None
    size_bytes: int
    compute_s: float
    hits: int
    value: float


@dataclass(frozen=True, slots=True)
class Group:
    """What is stored of one model on behalf of one feed ("" where there is none)."""

    model: str
    feed_id: str
    entries: int
    size_bytes: int
    hits: int


Place = tuple[float, str]  # created_at and key of the last entry of a page: the next page begins behind it


class AnswerBackend(Protocol):
    """Where answers outlive their replica: this file over SQL, valkey.py over Valkey. All calls block, and may raise anything."""

    def get(self, key: str) -> StoredAnswer | None: ...

    def put(self, answer: StoredAnswer, *, only_newer: bool = False) -> bool: ...

    def delete(self, selection: Selection) -> int: ...

    def totals(self) -> Totals: ...

    def groups(self) -> list[Group]: ...

    def page(self, selection: Selection, limit: int, after: Place | None = None) -> list[Entry]: ...

    def note_hits(self, hits: Mapping[str, int]) -> None: ...

    def evict(self, max_bytes: int, older_than: float, expired_before: float = 0.0) -> int: ...

    def close(self) -> None: ...


class AnswerStore:
    """Answers in the table `answers`. All calls block. `on_corrupt` is told of each row that is thrown away because it is damaged.

    Raises:
        DatabaseUnavailable, or what SQLite says: the caller decides what that means.
    """

    def __init__(self, database: Database, on_corrupt: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._on_corrupt = on_corrupt

    def get(self, key: str) -> StoredAnswer | None:
        """The answer under `key`, or None; a row that fails its digest is deleted."""
        with self._database.read() as connection:
            row = connection.execute(select(answers).where(answers.c.key == key)).mappings().first()
        if row is None:
            return None
        answer = _answer_of(row)
        if answer is None:
            log.warning("the stored answer %s does not match its digest; it is deleted and counts as a miss", key)
            self._on_corrupt()
            self.delete(Selection(key=key))
        return answer

    def put(self, answer: StoredAnswer, *, only_newer: bool = False) -> bool:
        """Store, replacing what stood under the key; with `only_newer` not what is as new or newer. True where it is stored now."""
        values = row_of(answer)
        saved = values["compute_s"] / values["size_bytes"]
        insert = self._database.insert(answers).values({**values, "hits": 0, "value": _CLOCK + saved})
        statement = insert.on_conflict_do_update(
            index_elements=["key"],
            set_={**values, "value": _CLOCK + (answers.c.hits + 1) * saved},  # who was asked for often will be again
            where=answers.c.created_at < insert.excluded.created_at if only_newer else None,
        )
        with self._database.begin() as connection:
            return connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount == 1

    def delete(self, selection: Selection) -> int:
        """Forget answers; how many went."""
        with self._database.begin() as connection:
            self._database.lock(connection, "evict")
            return connection.execute(delete(answers).where(_condition(selection))).rowcount

    def totals(self) -> Totals:
        """Entries and bytes."""
        with self._database.read() as connection:
            entries, size = connection.execute(select(func.count(), func.coalesce(func.sum(answers.c.size_bytes), 0))).one()
        return Totals(int(entries), int(size))

    def groups(self) -> list[Group]:
        """Entries, bytes and hits by model and feed, the largest first. Reads the whole table."""
        names = (answers.c.model, answers.c.feed_id)
        size = func.sum(answers.c.size_bytes)
        statement = select(*names, func.count(), size, func.sum(answers.c.hits)).group_by(*names).order_by(size.desc(), *names)
        with self._database.read() as connection:
            found = connection.execute(statement).all()
        return [Group(model, feed_id, int(entries), int(size), int(hits)) for model, feed_id, entries, size, hits in found]

    def page(self, selection: Selection, limit: int, after: Place | None = None) -> list[Entry]:
        """At most `limit` entries, the newest first, behind the place where the page before ended."""
        columns = [answers.c[field.name] for field in dataclasses.fields(Entry)]
        condition = _condition(selection)
        if after is not None:
            condition = and_(condition, tuple_(answers.c.created_at, answers.c.key) < tuple_(*after))
        statement = select(*columns).where(condition).order_by(answers.c.created_at.desc(), answers.c.key.desc()).limit(limit)
        with self._database.read() as connection:
            return [Entry(*row) for row in connection.execute(statement)]

    def note_hits(self, hits: Mapping[str, int]) -> None:
        """Somebody got these answers so often since the last call: they move back in the line for eviction."""
        if not hits:
            return
        count = answers.c.hits + bindparam("num_hits")
        value = _CLOCK + (count + 1) * answers.c.compute_s / answers.c.size_bytes
        statement = update(answers).where(answers.c.key == bindparam("hit")).values(hits=count, value=value)
        with self._database.begin() as connection:
            self._database.lock(connection, "evict")
            connection.execute(statement, [{"hit": key, "num_hits": number} for key, number in sorted(hits.items())])

    def evict(self, max_bytes: int, older_than: float, expired_before: float = 0.0) -> int:
        """Drop what was created before `older_than` or whose own time to live ended before `expired_before` (Unix times), and then, where
        more than `max_bytes` are left, what saves least until 90 % are; how many went.

        Least is the lowest `value`: compute-seconds that its hits saved, per byte, on top of what the clock said when it was last put or
        hit. The clock is the value of the last one that made room, so that what was popular once grows old. This is
        GreedyDual-Size-Frequency (Cherkasova, HP Labs report HPL-98-69R1, 1998) with the seconds of the generation as the cost.
        """
        expired = expired_before > EXPIRES_AT
        with self._database.begin() as connection:
            self._database.lock(connection, "evict")  # every shard does this; two that delete the same rows in two orders wait for ever
            gone = connection.execute(delete(answers).where(or_(answers.c.created_at < older_than, expired))).rowcount
            size = int(connection.scalar(select(func.coalesce(func.sum(answers.c.size_bytes), 0))) or 0)
            over = size > max_bytes
            while over and size > max_bytes * EVICT_TO:
                columns = (answers.c.key, answers.c.size_bytes, answers.c.value)
                lowest = connection.execute(select(*columns).order_by(answers.c.value).limit(EVICT_STEP)).all()
                rests = [size - freed for freed in itertools.accumulate(row.size_bytes for row in lowest)]
                taken = lowest[: 1 + sum(rest > max_bytes * EVICT_TO for rest in rests)]
                size -= sum(row.size_bytes for row in taken)
                gone += connection.execute(delete(answers).where(answers.c.key.in_([row.key for row in taken]))).rowcount
                connection.execute(update(answer_clock).values(value=taken[-1].value))
        return gone

    def close(self) -> None:
        """Nothing: the database is somebody else's."""


def every(page: Callable[[Selection, int, Place | None], list[Entry]], selection: Selection, step: int = 500) -> Iterator[Entry]:
    """All entries of a selection, over as many pages as it takes."""
    after: Place | None = None
    while found := page(selection, step, after):
        yield from found
        after = found[-1].created_at, found[-1].key


def row_of(answer: StoredAnswer) -> dict[str, Any]:
    """All columns but `hits` and `value`."""
    logprobs = {"logprobs": pack(answer.logprobs)} if answer.logprobs else {}
    finish = json.dumps({**dataclasses.asdict(answer.finish), **logprobs}, sort_keys=True)
    return {
        "key": answer.key,
        "model": answer.model,
        "scope": answer.scope,
        "feed_id": answer.feed_id,
        "finish": finish,
        "digest": digest(answer.key, answer.created_at, answer.ttl_s, finish, answer.text),
        "size_bytes": len(answer.text.encode("utf-8", "surrogatepass")) + len(finish) + ROW_BYTES,
        "created_at": answer.created_at,
        "ttl_s": answer.ttl_s,
        "compute_s": answer.finish.compute_s,
        "text": answer.text,
    }


def digest(key: str, created_at: float, ttl_s: float | None, finish: str, text: str) -> str:
    """SHA-256 over all of a row that a reply depends on."""
    ttl = None if ttl_s is None else float(ttl_s)
    return hashlib.sha256(f"{key}\n{float(created_at)!r}\n{ttl!r}\n{finish}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _answer_of(row: RowMapping) -> StoredAnswer | None:
    if row["digest"] != digest(row["key"], row["created_at"], row["ttl_s"], row["finish"], row["text"]):
        return None
    finish, logprobs = _ending_from(json.loads(row["finish"]))
    return StoredAnswer(
        row["key"], row["model"], row["scope"], row["feed_id"], row["text"], finish, row["created_at"], logprobs, row["ttl_s"]
    )


def _ending_from(fields: dict[str, Any]) -> tuple[Finish, tuple[TokenLogprob, ...]]:
    """The ending as JSON has it. Most answers were stored without log-probabilities."""
    logprobs = unpack(fields.pop("logprobs", ()))
    return Finish(**{**fields, "usage": Usage(**fields["usage"])}), logprobs


def _condition(selection: Selection) -> ColumnElement[bool]:
    conditions = [
        answers.c[name] == wanted
        for name, wanted in (("key", selection.key), ("model", selection.model), ("feed_id", selection.feed_id))
        if wanted is not None
    ]
    if selection.created_before is not None:
        conditions.append(answers.c.created_at < selection.created_before)
    return and_(true(), *conditions)
