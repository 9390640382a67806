"""Who runs when, and what an interruption leaves."""

from __future__ import annotations

from serve_app.bench.samples import Run
from serve_app.bench.turns import take_turns


async def test_the_arms_take_turns_and_an_interruption_ends_them() -> None:
    order: list[str] = []

    async def first(number: int) -> Run:
        order.append(f"first {number}")
        return Run(interrupted=number == 2)

    async def second(number: int) -> Run:
        order.append(f"second {number}")
        return Run()

    pairs = await take_turns(first, second, 5)
    assert order == ["first 0", "second 0", "second 1", "first 1", "first 2"]
    assert [pair.interrupted for pair in pairs] == [False, False, True]
    assert pairs[2].second.interrupted
