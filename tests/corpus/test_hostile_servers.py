"""Everything that a feed's server can do wrong, all at once: each refused with a reason, the good ones read meanwhile, in little memory."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.corpus.hostile_server import GOOD, HARMLESS, MISDEEDS, HostileServer


async def visit(urls: dict[str, str]) -> dict[str, Any]:
    """What hostile_child.py found."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.corpus.hostile_child", stdin=pipe, stdout=pipe)
    said, _error = await child.communicate(json.dumps({"urls": urls}).encode())
    assert child.returncode == 0
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


async def test_a_world_of_hostile_servers_costs_little_and_keeps_nobody_waiting() -> None:
    async with HostileServer() as server:
        found = await visit(server.urls())
    states: dict[str, list[str]] = found["states"]
    assert [name for name in MISDEEDS if states[name][0] != "failing"] == []
    assert [name for name in MISDEEDS if not states[name][1] or "internal error" in states[name][1]] == []
    assert [name for name in HARMLESS if states[name][0] not in ("ok", "failing")] == []
    assert {states[f"good-{name}"][0] for name in GOOD} == {"ok"}
    assert found["growth_mb"] < 100
    assert found["parser_mb"] < 400, "two processes, each of which starts with some 60"
    assert "larger than 15 MB" in states["bomb-zstd"][1]
    assert "within 4 s" in states["slow-body"][1]
