"""Every second of an engine is in its account, whenever somebody looks, and what ended badly is counted as lost."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from serve_app.errors import Cancelled, GenerationFailed
from serve_app.metrics import Metrics
from serve_app.model.books import Books
from serve_app.model.engine import Account, Stream
from serve_app.model.rows import Row
from tests.model import tiny


class HandClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def books(clock: HandClock) -> Books:
    return Books(tiny.CARD, 0.05, Metrics(), clock, started_at=90.0)


def row(num_prompt: int = 3) -> Row:
    return Row(Stream(tiny.ask("w1")), [5] * num_prompt, (), str)


def times(books: Books) -> dict[str, float]:
    """The account's seconds that are not zero."""
    return {name: value for name, value in asdict(books.account_now()).items() if name.endswith("_s") and value}


async def test_the_start_the_wait_and_the_step_in_progress_are_in_the_account(books: Books, clock: HandClock) -> None:
    assert times(books) == {"startup_s": 10.0}
    clock.passes(2)
    assert times(books) == {"startup_s": 12.0}
    books.ready()
    books.idle()
    clock.passes(5)
    assert times(books) == {"startup_s": 12.0, "idle_s": 5.0}
    books.busy()
    rows = [row()]
    books.batch(rows)
    clock.passes(3)
    assert times(books) == times(books) == {"startup_s": 12.0, "idle_s": 5.0, "used_s": 3.0}
    clock.passes(1)
    books.step("prefill", rows, 0)
    assert times(books) == {"startup_s": 12.0, "idle_s": 5.0, "used_s": 4.0}
    assert rows[0].seconds == 4.0
    books.done()
    books.over()
    clock.passes(1000)
    assert times(books) == {"startup_s": 12.0, "idle_s": 5.0, "used_s": 4.0}


async def test_what_cancelled_and_failed_rows_took_is_lost(books: Books, clock: HandClock) -> None:
    books.ready()
    good, leaver, bad = rows = [row(2), row(1), row(1)]
    books.batch(rows)
    clock.passes(4)
    books.step("prefill", rows, 0)
    books.finish(leaver, "cancelled")
    clock.passes(2)
    books.step("decode", [good, bad], 1)
    books.fail(bad, GenerationFailed("x"))
    books.finish(good, "length")
    books.finish(bad, "cancelled")  # has its ending already
    assert (good.seconds, leaver.seconds, bad.seconds) == (3.0, 1.0, 2.0)
    assert books.account_now() == Account(used_s=6.0, lost_s=3.0, startup_s=10.0, steps=2, rows=5, wasted_rows=1, running=3)


async def test_a_row_that_is_failed_from_outside_during_a_step_loses_that_step_too(books: Books, clock: HandClock) -> None:
    books.ready()
    rows = [row()]
    books.batch(rows)
    clock.passes(4)
    books.step("prefill", rows, 0)
    books.fail(rows[0], Cancelled("closing"))
    clock.passes(2)
    books.step("decode", rows, 0)  # which was live when the step began
    assert times(books) == {"startup_s": 10.0, "used_s": 6.0, "lost_s": 6.0}


async def test_the_time_of_a_broken_batch_is_lost_with_those_that_fail(books: Books, clock: HandClock) -> None:
    books.ready()
    again, bad = rows = [row(), row()]
    books.batch(rows)
    clock.passes(4)
    books.broken(rows)
    books.fail(bad, GenerationFailed("x"))
    books.batch([again])
    clock.passes(1)
    books.step("prefill", [again], 0)
    books.finish(again, "stop")
    assert again.seconds == 3.0
    assert times(books) == {"startup_s": 10.0, "used_s": 5.0, "lost_s": 2.0}
