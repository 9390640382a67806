"""kill -9 between any two steps of a feed's processing: nothing lost, one result per article, only what was in flight made again."""

from __future__ import annotations

import asyncio
import pathlib
import random
import shutil
from collections.abc import Sequence

import pytest

from serve_app.faults import POINTS, Fault
from serve_app.store.database import Database
from tests.corpus.kills import Site, World

AT_ONCE = 6  # worlds, each of which mostly waits for its feeds' next check
NUM_PAIRS = 4


def new_folder(folder: pathlib.Path, template: pathlib.Path) -> pathlib.Path:
    """With a database that need not be migrated."""
    folder.mkdir()
    shutil.copy(template, folder / "frugal.db")
    return folder


async def problems_of(folder: pathlib.Path, faults: Sequence[str], *, all_reached: bool = True) -> list[str]:
    """Live through these faults and then to the end, in a world of its own."""
    async with Site() as site:
        world = World(folder, f"sqlite:///{folder}/frugal.db", site)
        killed = [await world.live(fault) for fault in faults]
        while killed and killed[-1] and await world.live():
            pass
        found = world.problems() + ([] if all(killed) or not all_reached else ["was never reached"])
        world.close()
        return found


async def all_problems(folder: pathlib.Path, cases: Sequence[Sequence[str]], *, all_reached: bool = True) -> dict[str, list[str]]:
    """Of each case that has some."""
    template = folder / "template.db"
    Database(f"sqlite:///{template}").close()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, case: Sequence[str]) -> list[str]:
        async with gate:
            return await problems_of(new_folder(folder / str(number), template), case, all_reached=all_reached)

    found = await asyncio.gather(*(one(number, case) for number, case in enumerate(cases)))
    return {" then ".join(case): problems for case, problems in zip(cases, found, strict=True) if problems}


async def test_a_kill_at_any_point_loses_nothing_and_repeats_only_what_was_in_flight(tmp_path: pathlib.Path) -> None:
    assert await all_problems(tmp_path, [[point] for point in POINTS]) == {}


async def test_two_kills_cost_no_more(tmp_path: pathlib.Path) -> None:
    draw = random.Random(20261125)
    pairs = [[draw.choice(POINTS), f"{draw.choice(POINTS)}:{draw.randint(1, 2)}"] for _ in range(NUM_PAIRS)]
    assert await all_problems(tmp_path, pairs, all_reached=False) == {}


def test_a_fault_that_names_no_point_is_refused() -> None:
    for wrong in ("fetch", "fetched:second", ":1"):
        with pytest.raises(ValueError, match="names no fault point; use one of lease taken"):
            Fault(wrong)


def test_a_fault_is_the_passing_that_was_meant() -> None:
    fault, none = Fault("fetched:2"), Fault(None)
    assert [fault.passes(point) for point in ("fetched", "parsed", "fetched", "fetched")] == [False, False, True, False]
    assert not any(none.passes(point) for point in POINTS)
