"""Counting what is stored: seldom, in the background, and nobody waits for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve_app.cache.holdings import LOOK_S, Holdings
from serve_app.errors import Unavailable
from serve_app.store.answers import Group
from tests.fast.fakes_bench import HandClock

ONE, TWO = (Group("tiny", "", 1, 100, 0),), (Group("tiny", "", 2, 200, 0),)


class Shelf:
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        self.groups: Sequence[Group] = ONE
        self.num_looks = 0
        self.down = False
        self.given_up = False
        self.open, self.left = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def look(self) -> Sequence[Group]:
        self.num_looks += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        finally:
            self.left.set()
        if self.down:
            raise Unavailable("down", retry_after_s=1)
        return self.groups


async def test_a_second_report_within_the_time_looks_not_again() -> None:
    shelf, clock = Shelf(), HandClock()
    holdings = Holdings(shelf.look, 60.0, clock.now)
    assert await holdings.latest() == ONE
    shelf.groups = TWO
    clock.pass_s(LOOK_S - 1)
    assert await holdings.latest() == ONE
    clock.pass_s(1)
    assert (await holdings.latest(), shelf.num_looks) == (TWO, 2)


async def test_a_look_that_takes_long_is_not_waited_for_and_comes_in_later() -> None:
    shelf = Shelf()
    shelf.open.clear()
    holdings = Holdings(shelf.look, 0.0)
    assert [await holdings.latest(), await holdings.latest()] == [None, None]
    shelf.open.set()
    await shelf.left.wait()
    assert (await holdings.latest(), shelf.num_looks) == (ONE, 1)


async def test_while_the_store_is_down_the_last_look_stands() -> None:
    shelf, clock = Shelf(), HandClock()
    holdings = Holdings(shelf.look, 60.0, clock.now)
    shelf.down = True
    assert await holdings.latest() is None
    for down, found in ((False, ONE), (True, ONE)):
        shelf.down = down
        clock.pass_s(LOOK_S)
        assert await holdings.latest() == found


async def test_closing_gives_up_a_look_that_hangs() -> None:
    shelf = Shelf()
    shelf.open.clear()
    holdings = Holdings(shelf.look, 0.0)
    assert await holdings.latest() is None
    holdings.close()
    await shelf.left.wait()
    assert shelf.given_up
