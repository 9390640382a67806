"""Memory in front of a store: who answers, what is forgotten, what a store that is down or slow costs, and what is told of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping

import pytest

from serve_app.cache.layers import LayeredAnswers
from serve_app.cache.memory import ENTRY_BYTES, Memory
from serve_app.messages import Selection
from serve_app.metrics import Metrics
from serve_app.settings_cache import CacheSettings
from serve_app.store.answers import AnswerStore, StoredAnswer
from serve_app.store.database import Database
from tests.contract_store.answers import noise, stored

KEY = stored().key


class Store(AnswerStore):
    """A real one that a test can break, and hold in the middle of a read; `reads` counts."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.broken: Exception | None = None
        self.reads = 0
        self.reading, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def hold(self) -> None:
        """From now on a read gets its row and waits."""
        self.go_on.clear()

    def get(self, key: str) -> StoredAnswer | None:
        self.reads += 1
        if self.broken:
            raise self.broken
        found = super().get(key)
        self.reading.set()
        self.go_on.wait(10)
        return found

    def put(self, answer: StoredAnswer, *, only_newer: bool = False) -> bool:
        if self.broken:
            raise self.broken
        return super().put(answer, only_newer=only_newer)

    def note_hits(self, hits: Mapping[str, int]) -> None:
        if self.broken:
            raise self.broken
        super().note_hits(hits)


class Desk:
    """Layers over a store, and a clock."""

    def __init__(self, database: Database, **settings: object) -> None:
        self.time, self.metrics, self.store = 1000.0, Metrics(), Store(database)
        self.layers = LayeredAnswers(self.store, CacheSettings.load(settings), self.metrics, lambda: self.time)

    def figure(self, name: str, **labels: str) -> float:
        samples = dict(self.metrics.snapshot("AnswerCache", "one").families).get(name, ())
        return sum(sample.value for sample in samples if dict(sample.labels) == labels)


@pytest.fixture
def desk(database: Database) -> Iterator[Desk]:
    desk = Desk(database)
    yield desk
    desk.store.go_on.set()
    desk.layers.close()


async def test_the_second_lookup_is_answered_from_memory_and_the_first_after_a_put_too(desk: Desk) -> None:
    desk.store.put(stored())
    assert [await desk.layers.get(KEY) for _ in range(3)] == [stored()] * 3
    await desk.layers.put(stored(1))
    assert (await desk.layers.get(stored(1).key), await desk.layers.get("f" * 64)) == (stored(1), None)
    assert desk.store.reads == 2
    lookups = {layer: desk.figure("frugal_cache_lookups_total", layer=layer) for layer in ("memory", "store", "nowhere")}
    assert lookups == {"memory": 3, "store": 1, "nowhere": 1}


async def test_the_memory_is_believed_for_its_time_and_then_the_store_is_asked_again(desk: Desk) -> None:
    await desk.layers.put(stored())
    desk.store.delete(Selection())  # by somebody whose word did not come through
    desk.time += 59.9
    assert await desk.layers.get(KEY) == stored()
    desk.time += 0.1
    assert await desk.layers.get(KEY) is None


@pytest.mark.parametrize("selection", [Selection(key=KEY), Selection(model="tiny"), Selection(key=KEY, model="tiny"), Selection()])
async def test_what_is_forgotten_is_not_served_from_memory(desk: Desk, selection: Selection) -> None:
    await desk.layers.put(stored())
    desk.store.delete(selection)
    desk.layers.forget(selection)
    assert await desk.layers.get(KEY) is None


async def test_forgetting_one_key_keeps_the_others_at_hand(desk: Desk) -> None:
    for number in range(3):
        await desk.layers.put(stored(number))
    desk.layers.forget(Selection(key=stored(1).key))
    assert (await desk.layers.get(stored(2).key), desk.store.reads) == (stored(2), 0)


async def test_what_was_being_read_when_it_was_deleted_does_not_come_into_memory_afterwards(desk: Desk) -> None:
    desk.store.put(stored())
    desk.store.hold()
    reader = asyncio.create_task(desk.layers.get(KEY))
    await asyncio.to_thread(desk.store.reading.wait, 10)
    desk.store.delete(Selection())
    desk.layers.forget(Selection())
    desk.store.go_on.set()
    assert await reader == stored()  # it had it before
    assert await desk.layers.get(KEY) is None


async def test_what_was_being_read_does_not_replace_what_was_made_meanwhile(desk: Desk) -> None:
    desk.store.put(stored())
    desk.store.hold()
    reader = asyncio.create_task(desk.layers.get(KEY))
    await asyncio.to_thread(desk.store.reading.wait, 10)
    await desk.layers.put(stored(text="new", created_at=2000.0))
    desk.store.go_on.set()
    await reader
    assert await desk.layers.get(KEY) == stored(text="new", created_at=2000.0)


async def test_a_store_that_is_down_costs_misses_and_two_log_lines(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    desk.store.broken = OSError("disk on fire")
    assert [await desk.layers.get(f"{number:064x}") for number in range(100)] == [None] * 100
    await desk.layers.put(stored())
    assert (desk.store.reads, desk.figure("frugal_cache_errors_total", operation="get")) == (3, 100)
    assert desk.figure("frugal_cache_errors_total", operation="put") == 1
    assert desk.figure("frugal_cache_store_up") == 0
    assert await desk.layers.get(KEY) == stored(), "the memory goes on"
    desk.store.broken = None
    desk.time += 0.5
    await desk.layers.put(stored())
    assert (desk.figure("frugal_cache_store_up"), desk.store.get(KEY)) == (1, stored())
    assert [record.message for record in caplog.records] == [
        "the store of answers failed (get: OSError: disk on fire); the question counts as a miss",
        "the store of answers is down (get: OSError: disk on fire); every question is a miss until it works again",
        "the store of answers works again, after 0 s",
    ]


async def test_a_store_that_hangs_costs_its_timeout_three_times_and_then_nothing(database: Database) -> None:
    desk = Desk(database, store_timeout_s=0.05)
    desk.store.hold()
    assert [await desk.layers.get(f"{number:064x}") for number in range(50)] == [None] * 50
    assert desk.store.reads == 3
    desk.store.go_on.set()
    desk.layers.close()


async def test_hits_are_noted_in_one_step_and_those_from_memory_count(desk: Desk) -> None:
    await desk.layers.put(stored())
    desk.store.put(stored(1))
    for _ in range(3):
        await desk.layers.get(KEY)
        await desk.layers.get(stored(1).key)
    await desk.layers.note_hits()
    await desk.layers.note_hits()
    assert [entry.hits for entry in desk.store.page(Selection(), 10)] == [3, 3]


async def test_a_large_put_wants_a_trim_before_its_turn(database: Database) -> None:
    desk = Desk(database, max_bytes=1_000_000)
    for number in range(60):
        await desk.layers.put(stored(number, text=noise(20_000)))
        if desk.layers.wants_trim:
            await desk.layers.trim(0.0, 0.0)
    assert desk.store.totals().size_bytes <= 1_000_000 * 1.1
    assert desk.figure("frugal_cache_evictions_total") >= 10
    assert desk.figure("frugal_cache_entries") == desk.store.totals().entries
    assert desk.figure("frugal_cache_memory_bytes") == 60 * 21_049
    desk.layers.close()


def test_the_memory_keeps_to_its_bytes_and_keeps_what_is_asked_for() -> None:
    memory = Memory(100 * (ENTRY_BYTES + 1049), 60.0, lambda: 0.0)
    for number in range(2000):
        memory.fill(stored(number + 10, text="x" * 1000), memory.epoch)
        for hot in range(10):
            if memory.get(stored(hot).key) is None:
                memory.fill(stored(hot, text="x" * 1000), memory.epoch)
    entries, size_bytes = memory.totals()
    assert 80 <= entries <= 100
    assert size_bytes <= 100 * (ENTRY_BYTES + 1049)
    assert sum(memory.get(stored(hot).key) is not None for hot in range(10)) >= 9


def test_without_memory_there_is_none() -> None:
    memory = Memory(0, 60.0, lambda: 0.0)
    memory.fill(stored(), 0)
    memory.forget(Selection())
    assert (memory.get(KEY), memory.totals()) == (None, (0, 0))
    memory.tune(1_000_000, 60.0)
    memory.fill(stored(), memory.epoch)
    assert memory.get(KEY) == stored()
