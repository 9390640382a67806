"""Stored answers: they come back as they went in or not at all, and what saves least makes room. Whatever the store is made of."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import Selection
from serve_app.store.answers import AnswerBackend, Entry, Group, StoredAnswer, Totals, every
from tests.fast.fakes import finish


def stored(number: int = 0, text: str = "two words", created_at: float = 1000.0, **changes: object) -> StoredAnswer:
    answer = StoredAnswer(f"{number:064x}", "tiny", "tenant", "feed0", text, finish(reason="length"), created_at)
    return replace(answer, **changes)  # type: ignore[arg-type]


def noise(length: int) -> str:
    """A text that cannot be compressed much."""
    return random.Random(1).randbytes(length // 2).hex()


def left(store: AnswerBackend, numbers: range) -> list[int]:
    """Which of these answers are still there."""
    return [number for number in numbers if store.get(stored(number).key) is not None]


@pytest.mark.parametrize("text", ["two words", "", "emoji 🙂, newline\n, U+2028 \u2028, NUL \0 and half a pair \ud83d", "x" * 100_000])
def test_an_answer_comes_back_as_it_went_in(store: AnswerBackend, text: str) -> None:
    assert store.put(stored(text=text))
    assert store.get(stored().key) == stored(text=text)
    assert store.get("f" * 64) is None


def test_an_answers_own_time_to_live_comes_back(store: AnswerBackend) -> None:
    store.put(stored(created_at=1_795_378_856.123_456_7, ttl_s=0.1))
    assert store.get(stored().key) == stored(created_at=1_795_378_856.123_456_7, ttl_s=0.1)


def test_log_probabilities_come_back_whatever_their_bytes(store: AnswerBackend) -> None:
    halves = (Candidate(b"\xf0\x9f", -0.1), Candidate(b"\x00\xff\xe2", -3.25))
    told = stored(1, logprobs=(TokenLogprob(halves[0], halves, 3), TokenLogprob(Candidate(b"", -9999.0))))
    store.put(told)
    assert store.get(told.key) == told


def test_the_newer_answer_replaces_the_older_one(store: AnswerBackend) -> None:
    store.put(stored(text="old"))
    store.put(stored(text="newer", created_at=2000.0))
    assert store.get(stored().key) == stored(text="newer", created_at=2000.0)
    assert store.totals().entries == 1


def test_an_older_answer_replaces_none_where_only_newer_ones_may(store: AnswerBackend) -> None:
    assert store.put(stored(text="first"), only_newer=True)
    assert not store.put(stored(text="as new"), only_newer=True)
    assert not store.put(stored(text="older", created_at=1.0), only_newer=True)
    assert store.get(stored().key) == stored(text="first")
    assert store.put(stored(text="newer", created_at=2000.0), only_newer=True)
    assert store.get(stored().key) == stored(text="newer", created_at=2000.0)


def test_a_deleted_answer_is_gone(store: AnswerBackend) -> None:
    store.put(stored(1))
    store.put(stored(2))
    assert store.delete(Selection(key=stored(1).key)) == 1
    assert store.delete(Selection(key=stored(1).key)) == 0
    assert (store.get(stored(1).key), store.get(stored(2).key)) == (None, stored(2))
    assert store.totals().entries == 1


FOUR = (
    stored(0, model="a", feed_id="x", created_at=1000.0),
    stored(1, model="a", feed_id="y", created_at=2000.0),
    stored(2, model="b", feed_id="x", created_at=3000.0),
    stored(3, model="b", feed_id="", created_at=4000.0),
)


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        (Selection(), [3, 2, 1, 0]),
        (Selection(key=FOUR[2].key), [2]),
        (Selection(key="f" * 64), []),
        (Selection(model="a"), [1, 0]),
        (Selection(feed_id="x"), [2, 0]),
        (Selection(feed_id=""), [3]),
        (Selection(created_before=3000.0), [1, 0]),
        (Selection(model="b", feed_id="x"), [2]),
        (Selection(key=FOUR[2].key, model="a"), []),
        (Selection(model="b", created_before=3500.0), [2]),
    ],
)
def test_answers_are_listed_and_deleted_by_key_model_feed_and_age_and_all_of_them_together(
    store: AnswerBackend, selection: Selection, numbers: list[int]
) -> None:
    for answer in FOUR:
        store.put(answer)
    assert [int(entry.key, 16) for entry in store.page(selection, 10)] == numbers
    assert store.delete(selection) == len(numbers)
    assert left(store, range(4)) == sorted({0, 1, 2, 3} - set(numbers))


def test_a_list_is_the_same_whatever_the_size_of_its_pages(store: AnswerBackend) -> None:
    for number in range(12):
        store.put(stored(number, created_at=1000.0 + number // 5))  # five of the same moment
    whole = store.page(Selection(), 100)
    assert sorted(int(entry.key, 16) for entry in whole) == list(range(12))
    assert [entry.created_at for entry in whole] == sorted((entry.created_at for entry in whole), reverse=True)
    for size in (1, 2, 5, 7):
        assert list(every(store.page, Selection(), size)) == whole


def test_an_entry_says_what_it_is_worth(store: AnswerBackend) -> None:
    store.put(stored(ttl_s=60.0))
    store.note_hits({stored().key: 3, "f" * 64: 1})
    (entry,) = store.page(Selection(), 10)
    size = store.totals().size_bytes
    assert replace(entry, value=0.0) == Entry(stored().key, "tiny", "feed0", 1000.0, 60.0, size, stored().finish.compute_s, 3, 0.0)
    assert entry.value > 0
    assert store.groups() == [Group("tiny", "feed0", 1, size, 3)]


def test_groups_add_up_by_model_and_feed(store: AnswerBackend) -> None:
    for answer in (*FOUR, replace(FOUR[0], key="e" * 64)):
        store.put(answer)
    store.note_hits({FOUR[0].key: 2, "e" * 64: 5})
    groups = store.groups()
    assert (groups[0].model, groups[0].feed_id, groups[0].entries, groups[0].hits) == ("a", "x", 2, 7)
    assert {(group.model, group.feed_id): group.entries for group in groups} == {("a", "x"): 2, ("a", "y"): 1, ("b", "x"): 1, ("b", ""): 1}
    assert store.totals() == Totals(5, sum(group.size_bytes for group in groups))


def test_what_is_too_old_goes_and_the_rest_stays(store: AnswerBackend) -> None:
    for number in range(4):
        store.put(stored(number, created_at=1000.0 + number))
    assert store.evict(1_000_000, older_than=1002.0, expired_before=0.0) == 2
    assert left(store, range(4)) == [2, 3]


def test_what_outlived_its_own_time_goes_and_what_has_none_stays(store: AnswerBackend) -> None:
    store.put(stored(0, ttl_s=10.0))
    store.put(stored(1, ttl_s=30.0))
    store.put(stored(2))
    store.put(stored(3, ttl_s=5.0))
    store.put(stored(3))  # asked for again, without a time of its own
    assert store.evict(1_000_000, older_than=0.0, expired_before=1020.0) == 1
    assert left(store, range(4)) == [1, 2, 3]


def filled(store: AnswerBackend, num: int, **changes: object) -> int:
    """Store so many answers of the same size, one second apart; the size of each."""
    for number in range(num):
        store.put(stored(number, text="x" * 1000, created_at=1000.0 + number, **changes))
    return store.totals().size_bytes // num


def test_when_it_is_full_nine_tenths_are_kept(store: AnswerBackend) -> None:
    each = filled(store, 20)
    assert store.evict(21 * each, older_than=0) == 0
    assert store.evict(10 * each, older_than=0) in (10, 11, 12)  # compressed, they are not quite of one size
    assert 7.9 * each < store.totals().size_bytes <= 9 * each


def test_what_is_asked_for_stays_and_what_is_not_goes_however_new_it_is(store: AnswerBackend) -> None:
    each = filled(store, 10)
    store.note_hits({stored(number).key: 1 for number in (0, 4)})
    assert store.evict(3 * each, older_than=0, expired_before=0) == 8
    assert left(store, range(10)) == [0, 4]


def test_seconds_saved_per_byte_decide(store: AnswerBackend) -> None:
    slow, quick = finish(compute_s=8.0), finish(compute_s=0.1)
    store.put(stored(0, text=noise(3000), finish=slow))
    store.put(stored(1, text=noise(3000), finish=quick))
    store.put(stored(2, text=noise(100_000), finish=slow))
    assert [int(entry.key, 16) for entry in sorted(store.page(Selection(), 10), key=lambda entry: -entry.value)] == [0, 2, 1]
    assert store.evict(10_000, older_than=0, expired_before=0) == 2
    assert left(store, range(3)) == [0]


def test_what_was_popular_once_gives_way_in_time(store: AnswerBackend) -> None:
    each = filled(store, 10)
    store.note_hits({stored(0).key: 5})
    for number in range(10, 200):
        store.put(stored(number, text="x" * 1000))
        store.note_hits({stored(number).key: 1})  # the new ones are asked for, too: the clock goes on
        store.evict(10 * each, older_than=0, expired_before=0)
    assert store.get(stored(0).key) is None


def test_an_answer_that_is_made_again_keeps_its_hits(store: AnswerBackend) -> None:
    store.put(stored())
    store.note_hits({stored().key: 4})
    store.put(stored(text="fresh", created_at=2000.0))
    assert [(entry.hits, entry.created_at) for entry in store.page(Selection(), 10)] == [(4, 2000.0)]
