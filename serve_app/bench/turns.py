"""Two arms of one comparison in turn. Who goes first changes with every round, because the machine's speed drifts.

Knows nothing of what the arms do. Tests: tests/fast/test_bench_turns.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serve_app.bench.samples import Run

Arm = Callable[[int], Awaitable[Run]]


@dataclass(frozen=True, slots=True)
class Pair:
    """One round: the same questions through both arms."""

    first: Run
    second: Run

    @property
    def interrupted(self) -> bool:
        """A person stopped it before both arms were through, so it compares nothing."""
        return self.first.interrupted or self.second.interrupted


async def take_turns(first: Arm, second: Arm, rounds: int) -> list[Pair]:
    """Run both arms once in every round, the first one first in every other round. An interrupted round is the last."""
    pairs: list[Pair] = []
    for number in range(rounds):
        pairs.append(await _round(first, second, number))
        if pairs[-1].interrupted:
            break
    return pairs


async def _round(first: Arm, second: Arm, number: int) -> Pair:
    if number % 2 == 0:
        of_first = await first(number)
        return Pair(of_first, Run(interrupted=True) if of_first.interrupted else await second(number))
    of_second = await second(number)
    return Pair(Run(interrupted=True) if of_second.interrupted else await first(number), of_second)
