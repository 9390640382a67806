"""One AnswerCache replica over a real database: what is stored outlives it, the books are never lost, nobody is left waiting."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import time
from collections.abc import AsyncIterator

import pytest

from serve_app.cache.answers import Answers
from serve_app.cache.key import answer_key
from serve_app.cache.shard import AnswerShard
from serve_app.errors import Cancelled, ConfigError
from serve_app.messages import Answer, Opening
from serve_app.settings import AppSettings
from serve_app.settings_cache import CacheSettings
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger
from tests.fast.fakes import FakeModel, ask, finish
from tests.fast.fakes_feeds import until

KEY = answer_key(ask(), "f" * 64)


class World:
    """A database file and a fake model; `shard()` is a replica over them."""

    def __init__(self, folder: pathlib.Path, database_url: str) -> None:
        self.app = AppSettings(data_dir=str(folder), database_url=database_url)
        self.model = FakeModel()

    @contextlib.asynccontextmanager
    async def shard(self) -> AsyncIterator[AnswerShard]:
        shard = AnswerShard(self.app, self.model.generate, self.model.fingerprint, self.model.promote)
        try:
            yield shard
        finally:
            await shard.stop()

    async def asked(self, answers: Answers) -> Answer:
        """Ask, and have the model say two words."""
        self.model.started.clear()
        caller = asyncio.create_task(answers.whole(ask()))
        await self.model.started.wait()
        self.model.say("two ", "words")
        self.model.finish()
        return await caller

    def booked(self) -> list[tuple[str, str, int]]:
        """Outcome, ending and number of requests of each row of the ledger."""
        database = Database(self.app.database)
        rows = [(row.outcome, row.ending, row.requests) for row in Ledger(database).rows()]
        database.close()
        return sorted(rows)

    def errors(self, shard: AnswerShard) -> float:
        """How often the shard counted a failed flush."""
        samples = dict(shard.metrics.snapshot("AnswerCache", "one").families).get("frugal_cache_errors_total", ())
        return sum(sample.value for sample in samples if sample.labels == (("operation", "flush"),))

    def sql(self, statement: str) -> None:
        """Do something to the database behind the shard's back."""
        with contextlib.closing(Database(self.app.database)) as database, database.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.fixture
def world(tmp_path: pathlib.Path, database_url: str) -> World:
    return World(tmp_path, database_url)


async def test_an_answer_outlives_the_replica_that_stored_it(world: World) -> None:
    async with world.shard() as shard:
        assert await world.asked(shard.answers) == Answer(Opening("miss", KEY, replay_s=10), "two words", finish())
    async with world.shard() as shard:
        found = await shard.answers.whole(ask())
    assert (found.opening.outcome, found.opening.key, found.text, found.finish.compute_s) == ("hit", KEY, "two words", 0.5)
    assert len(world.model.requests) == 1


async def test_the_books_are_in_the_ledger_after_the_stop(world: World) -> None:
    async with world.shard() as shard:
        await world.asked(shard.answers)
        await shard.answers.whole(ask())
        assert world.booked() == []
    assert world.booked() == [("hit", "stop", 1), ("miss", "stop", 1)]


async def test_a_flush_that_fails_keeps_its_rows_for_the_next_one(world: World) -> None:
    async with world.shard() as shard:
        await world.asked(shard.answers)
        world.sql("ALTER TABLE ledger RENAME TO away")
        with pytest.raises(Exception, match=r"no such table: ledger|\"ledger\" does not exist"):
            await shard.flush()
        await shard.answers.whole(ask())
        world.sql("ALTER TABLE away RENAME TO ledger")
        await shard.flush()
        await shard.flush()
        assert world.booked() == [("hit", "stop", 1), ("miss", "stop", 1)]


async def test_the_task_that_keeps_the_books_survives_a_broken_database_and_says_so(world: World) -> None:
    async with world.shard() as shard:
        await world.asked(shard.answers)
        world.sql("ALTER TABLE ledger RENAME TO away")
        shard.start()
        await until(lambda: world.errors(shard) >= 1)
        shard.check()
        world.sql("ALTER TABLE away RENAME TO ledger")
    assert world.booked() == [("miss", "stop", 1)]


async def test_a_replica_whose_book_keeping_is_gone_asks_to_be_replaced(world: World) -> None:
    async with world.shard() as shard:
        shard.check()
        shard.start()
        shard.check()
        assert shard._task is not None
        shard._task.cancel()
        await asyncio.gather(shard._task, return_exceptions=True)
        with pytest.raises(RuntimeError, match="keeps the books is gone"):
            shard.check()


async def test_stopping_gives_everybody_who_waits_an_ending(world: World) -> None:
    async with world.shard() as shard:
        callers = [asyncio.create_task(shard.answers.whole(ask())) for _ in range(3)]
        await world.model.started.wait()
    endings = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(ending) for ending in endings] == [Cancelled] * 3
    assert world.model.cancelled == world.model.requests
    assert world.booked() == [("join", "error", 2), ("miss", "error", 1)]


async def test_bad_settings_keep_the_old_ones_and_are_shown(world: World) -> None:
    async with world.shard() as shard:
        shard.tune({"ttl_s": 60})
        shard.tune({"ttl_s": -1})
        assert (shard.answers.settings, shard.settings_error) == (
            CacheSettings(ttl_s=60),
            "AnswerCache.user_config.ttl_s: Input should be greater than 0, not -1",
        )
        shard.tune({})
        assert (shard.answers.settings, shard.settings_error) == (CacheSettings(), None)


async def test_the_first_settings_must_be_right(world: World) -> None:
    async with world.shard() as shard:
        with pytest.raises(ConfigError, match="ttl_s"):
            shard.tune({"ttl_s": -1})


async def test_what_is_too_old_is_dropped_and_counted(world: World) -> None:
    async with world.shard() as shard:
        await world.asked(shard.answers)
        world.sql("UPDATE answers SET created_at = 0")
        await shard._trim()
        families = dict(shard.metrics.snapshot("AnswerCache", "one").families)
        figures = {name: families[name][0].value for name in ("frugal_cache_evictions_total", "frugal_cache_entries", "frugal_cache_bytes")}
        assert figures == {"frugal_cache_evictions_total": 1.0, "frugal_cache_entries": 0.0, "frugal_cache_bytes": 0.0}


async def test_what_may_still_be_served_stale_is_kept(world: World) -> None:
    async with world.shard() as shard:
        await world.asked(shard.answers)
        for settings, entries in (({}, 1), ({"max_stale_s": 10, "stale_while_revalidate_s": 300}, 1), ({"max_stale_s": 10}, 0)):
            shard.tune({"ttl_s": 60, **settings})
            world.sql(f"UPDATE answers SET created_at = {time.time() - 120}")
            await shard._trim()
            assert dict(shard.metrics.snapshot("AnswerCache", "one").families)["frugal_cache_entries"][0].value == entries
