"""What `frugal-serve bench engine` is asked to measure. Free of torch. Tests: tests/engine/test_bench_engine.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.messages import Priority

Kind = Literal["one", "static", "plain", "slots", "unguessed"]
Load = Literal["articles", "skewed", "chat"]
LOADS: tuple[Load, ...] = ("articles", "skewed", "chat")
WORKLOADS = (*LOADS, "steps", "interference")

GOES_WITH = {
    "arms": LOADS,
    "requests": LOADS,
    "max_tokens": LOADS,
    "priority": LOADS,
    "duration_s": ("interference",),
}
FLAGS = {"arms": "--arm", "duration_s": "--duration"}


@dataclass(frozen=True, slots=True)
class Arm:
    """An engine and its batch size; a size of 0 is still to be found (`plain` takes the best static one)."""

    kind: Kind
    batch_size: int

    @property
    def name(self) -> str:
        """As `--arm` takes it."""
        return self.kind if self.kind in ("one", "plain") else f"{self.kind}-{self.batch_size}"

    @property
    def engine(self) -> str:
        """Who generates: `one` is the static engine with batches of one, `unguessed` the slots engine without prompt lookup."""
        return {"one": "static", "unguessed": "slots"}.get(self.kind, self.kind)


# Plain comes behind the static sizes, because it takes the best of them.
ARMS = (
    Arm("one", 1),
    *(Arm("static", size) for size in (4, 8, 16, 32)),
    Arm("plain", 0),
    *(Arm("slots", size) for size in (16, 32, 64)),
    Arm("unguessed", 32),
)


@dataclass(frozen=True, slots=True)
class Options:
    """None: each workload's own number. `duration_s` is interference's."""

    workloads: tuple[str, ...]
    arms: tuple[Arm, ...] = ARMS
    requests: int | None = None
    max_tokens: int | None = None
    rounds: int = 3
    priority: Priority = "interactive"
    duration_s: float = 20.0


def arms_named(names: Collection[str]) -> tuple[Arm, ...]:
    """Those of ARMS, in its order; all where none is named."""
    return tuple(arm for arm in ARMS if arm.name in names) if names else ARMS


def arms_for(load: Load, arms: Sequence[Arm]) -> list[Arm]:
    """Plain calls know neither forced lengths nor a system prompt: they summarise articles."""
    return [arm for arm in arms if arm.kind != "plain" or load == "articles"]


def mistake(workloads: Collection[str], given: Collection[str], arms: Collection[str] = ()) -> str | None:
    """What is wrong with the options that were written: one that would change nothing is refused rather than ignored.

    `given` are the names of those that were, `arms` the values of `--arm`.
    """
    for option, those in GOES_WITH.items():
        if option in given and not set(those) & set(workloads):
            flag = FLAGS.get(option, f"--{option.replace('_', '-')}")
            return f"{flag} goes with --workload {' or '.join(those)}; leave it out, or name one of them"
    if set(arms) == {"plain"} and "articles" not in workloads:
        return "--arm plain goes with --workload articles; name it, or another arm"
    return None
