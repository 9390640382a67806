"""kill -9 in the middle of a transaction, and around it, over PostgreSQL; tests/corpus/test_kills.py does so at every point over SQLite."""

from __future__ import annotations

import pathlib

import pytest

from serve_app.faults import FaultPoint
from tests.corpus.kills import Site, World


@pytest.mark.parametrize("point", ["check written", "answer kept", "result written"])
async def test_a_kill_costs_only_what_was_in_flight(point: FaultPoint, tmp_path: pathlib.Path, database_url: str) -> None:
    async with Site() as site:
        world = World(tmp_path, database_url, site)
        assert await world.live(point)
        assert not await world.live()
        assert world.problems() == []
        world.close()
