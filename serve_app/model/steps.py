"""The scheduler's nouns: a sequence, and the step that moves sequences on.

Plain data. Must not know who decides (scheduler.py), where KV is kept (slots.py) or how it is computed.
Tests: tests/engine/test_scheduler.py.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from serve_app.messages import Priority
from serve_app.model.lookup import Lookup

State = Literal["waiting", "prefill", "decode", "ended"]
Departure = Literal["cancelled", "deadline"]
TOKEN_BYTES = array("i").itemsize


def pack(token_ids: Iterable[int]) -> bytes:
    """Token ids as bytes of one width, so that prefixes compare in C: 1,000 tokens in 0.1 microseconds, as slices of lists in 7."""
    return array("i", token_ids).tobytes()


@dataclass(slots=True, eq=False)
class Sequence:
    """One generation. The fields from `slot` on are the scheduler's, and read-only for everybody else; `priority` rises by `promote`.

    The KV of the token sampled last is not computed yet. The step that decodes this sequence computes it, for the token `token_ids[-1]` at
    the position `num_computed`, and samples the next one, and with right guesses (lookup.py) more. So `num_computed` is
    `len(prompt_ids) + len(token_ids) - 1` all through "decode":

        prompt_ids                    token_ids
        [0 ....................... p) [p ........... p+g-1) p+g-1
        |-------------- num_computed ---------------------| next to compute
    """

    number: int  # unique among those in the scheduler; the caller's
    prompt_ids: list[int]
    max_tokens: int
    priority: Priority
    arrived_at: float
    deadline_at: float | None = None
    slot: int | None = None  # while it runs
    num_cached: int = 0  # prompt positions whose KV was found in a slot instead of being computed
    num_computed: int = 0  # positions [0, num_computed) have their KV in the slot
    token_ids: list[int] = field(default_factory=list)
    state: State = "waiting"
    lookup: Lookup | None = None  # while it decodes and guesses are wanted
    packed: bytes = field(init=False, repr=False)  # the prompt, for the search of prefixes

    def __post_init__(self) -> None:
        self.packed = pack(self.prompt_ids)


@dataclass(frozen=True, slots=True)
class Copy:
    """The KV of positions [0, num_tokens) goes from slot to slot, before the step computes anything."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The prompt positions [start, stop) of a sequence are prefilled in this step."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def completes(self) -> bool:
        """True where the chunk's last position gives the first token."""
        return self.stop == len(self.sequence.prompt_ids)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: the copies one after the other, in order, then all decodes and chunks in any order or at once.

    `guesses`: for some of the decodes, what may follow its last token, computed along at the positions behind it.
    """

    copies: tuple[Copy, ...] = ()
    decodes: tuple[Sequence, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    guesses: Mapping[Sequence, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_prompt(self) -> int:
        """Prompt positions to compute."""
        return sum(chunk.stop - chunk.start for chunk in self.chunks)

    @property
    def num_guessed(self) -> int:
        """Guessed tokens to compute."""
        return sum(map(len, self.guesses.values()))

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to run; there are no copies then, either."""
        return not self.decodes and not self.chunks

    @property
    def yields(self) -> tuple[Sequence, ...]:
        """The sequences that get a token or more from this step: decodes first, then completed prompts."""
        return (*self.decodes, *(chunk.sequence for chunk in self.chunks if chunk.completes))


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be changed while the engine runs.

    `token_budget`: positions that a step computes. `chunk_tokens`: prompt positions that a step computes, of all its prompts together.
    `max_live`: sequences that run at once; more than there are slots is as good as all slots. `starvation_s`: a batch sequence that came
    longer ago counts as interactive. `min_prefix`: a shorter shared prefix is computed, not reused, for it does not pay for a copy.
    `max_guesses`: guessed tokens of a sequence in a step, where each is worth its `guess_price` (lookup.py).
    """

    token_budget: int
    chunk_tokens: int
    max_live: int
    starvation_s: float
    min_prefix: int = 16
    max_guesses: int = 0
    guess_price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("token_budget", "chunk_tokens", "max_live", "min_prefix"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1, or nothing would ever run")
