"""The answer store on a real Valkey or Redis: the contract, and what is its own: the bound, the accounting, damage, neighbours."""

from __future__ import annotations

import threading

import pytest

from serve_app.messages import Selection
from serve_app.store.answer_lines import to_blob
from serve_app.store.answers import Totals
from serve_app.store.valkey import PREFIX, ValkeyAnswers
from tests.contract_store.answers import *  # noqa: F403 (tests, which pytest finds by their names here)
from tests.contract_store.answers import stored
from tests.valkey.server import ValkeyServer

ENTRY = f"{PREFIX}answer:{stored().key}"


@pytest.mark.parametrize(
    "blob",
    [b"", b"1{}", b"\x80\x04pickle", to_blob(stored())[:-1], to_blob(stored(text="x" * 5000))[:-9], to_blob(stored(1))],
    ids=["empty", "no answer", "pickle", "torn", "torn and compressed", "of another key"],
)
def test_what_is_damaged_or_foreign_is_a_miss_and_goes(
    server: ValkeyServer, store: ValkeyAnswers, damaged: list[None], blob: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(stored())
    with server.client() as client:
        client.hset(ENTRY, "blob", blob)
    assert store.get(stored().key) is None
    assert (store.totals(), damaged) == (Totals(0, 0), [None])
    assert [record.message.startswith(f"the stored answer {stored().key} is not served") for record in caplog.records] == [True]


def test_a_key_of_ours_that_holds_something_else_is_a_miss_and_can_be_stored_again(
    server: ValkeyServer, store: ValkeyAnswers, damaged: list[None]
) -> None:
    for _ in range(2):
        with server.client() as client:
            client.set(ENTRY, "a string")
        assert (store.get(stored().key), damaged.pop()) == (None, None)
        store.put(stored())
        assert (store.get(stored().key), store.totals().entries) == (stored(), 1)
        with server.client() as client:
            client.set(ENTRY, "a string again")
        store.put(stored())
        assert store.get(stored().key) == stored()


def test_neighbours_on_the_server_are_left_alone(server: ValkeyServer, store: ValkeyAnswers) -> None:
    with server.client() as client:
        client.set("answer:mine", "somebody's")
        for number in range(20):
            store.put(stored(number))
        store.evict(1_000, 0.0)
        store.delete(Selection())
        assert (store.totals(), client.get("answer:mine")) == (Totals(0, 0), b"somebody's")
        assert sorted(client.keys()) == sorted([b"answer:mine", *(f"{PREFIX}{name}".encode() for name in ("bytes", "clock", "limit"))])


def test_puts_of_many_clients_keep_to_the_limit_and_the_sum_is_that_of_the_entries(server: ValkeyServer, store: ValkeyAnswers) -> None:
    for number in range(10):
        store.put(stored(number))
    limit = store.totals().size_bytes
    store.evict(limit, 0.0)
    seen: list[int] = []
    gone: list[int] = []  # what the puts of each dropped is told with its next eviction

    def put(first: int) -> None:
        own = ValkeyAnswers(server.url, 5.0)
        for number in range(first, first + 100):
            own.put(stored(number % 150, text="x" * (number % 7 * 300)))
            own.note_hits({stored(number % 150).key: 1})
            seen.append(own.totals().size_bytes)
        gone.append(own.evict(limit, 0.0))
        own.close()

    threads = [threading.Thread(target=put, args=(first,)) for first in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(seen), max(seen) <= limit) == (400, True)
    entries = store.page(Selection(), 1000)
    assert store.totals() == Totals(len(entries), sum(entry.size_bytes for entry in entries))
    assert sum(gone) > 100


def test_an_entry_takes_about_the_memory_that_it_is_counted_with(server: ValkeyServer, store: ValkeyAnswers) -> None:
    with server.client() as client:
        before = client.info("memory")["used_memory"]
        for number in range(2000):
            store.put(stored(number, text=f"{number:x}" * 100))
        taken = client.info("memory")["used_memory"] - before
    assert 0.7 < store.totals().size_bytes / taken < 1.4


def test_a_server_that_evicts_by_itself_is_told_of_once(
    server: ValkeyServer, store: ValkeyAnswers, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        store.evict(1_000_000, 0.0)
        store.evict(1_000_000, 0.0)
        client.config_set("maxmemory-policy", "noeviction")
    assert [record.message for record in caplog.records] == [
        f"{server.url} has maxmemory-policy allkeys-lru and may evict by itself; set it to noeviction or volatile-lru"
    ]
