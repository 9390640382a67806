"""How much a step of the in-flight engine may take on: how many rows run at once, and how many prompt tokens come in beside them.

Two rules, over what steps took at the engine's start and since:

- A prompt's chunk beside an interactive row is as large as that row may be kept waiting: up to `target_itl_ms`, or without one up to
  `SLOWDOWN` decode steps. Beside batch rows, or nobody, it is the largest.
- With a target, the number of live rows follows it: one more after each window of steps within it, a tenth less after one above it
  (additive increase, multiplicative decrease, as in Clipper, NSDI 2017, https://arxiv.org/abs/1612.03079, section 4.3).

Floats and integers only; the engine's thread calls it. Tests: tests/engine/test_pace.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.model.steps import Limits, Step
from serve_app.settings import ModelTuning

MAX_CHUNK, MIN_CHUNK = 512, 32  # prompt tokens; more are no quicker per token, fewer cost more steps than they spare anybody
MAX_GUESSING_ROWS = 16  # or waiting for a row: beyond, a guess costs the others more than it spares its own (docs/performance.md)
SLOWDOWN = 3.0
BACK_OFF = 0.9
WINDOW = 8  # steps between two changes of the number of live rows
WEIGHT = 0.05  # of the newest step in the average


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a step: of any, of each decoding row, of each prompt token, of each guessed token (lookup.py)."""

    step_s: float
    row_s: float
    prompt_token_s: float
    guess_s: float

    def seconds(self, num_rows: int, num_prompt: int, num_guessed: int = 0) -> float:
        """What such a step takes."""
        return self.step_s + self.row_s * num_rows + self.prompt_token_s * num_prompt + self.guess_s * num_guessed

    def guess_price(self, num_rows: int) -> float:
        """What a guessed token costs, in tokens of a step with so many rows."""
        return self.guess_s / (self.step_s / num_rows + self.row_s)


class Pace:
    """Of one engine. `costs` are as measured at its start; what the machine does since is one factor on all of them."""

    def __init__(self, costs: Costs, max_chunk: int = MAX_CHUNK) -> None:
        self._costs = costs
        self._drift = 1.0
        self._max_chunk = max_chunk
        self._live = float("inf")  # no limit but the setting's
        self._num_steps, self._num_late, self._was_full = 0, 0, False

    def max_live(self, tuning: ModelTuning) -> int:
        """Rows that may run at once now."""
        return int(min(self._live, tuning.max_batch_size)) if tuning.target_itl_ms else tuning.max_batch_size

    def limits(self, tuning: ModelTuning, num_rows: int, interactive: bool, num_wanted: int = 0) -> Limits:
        """For the next step beside so many decoding rows; `interactive`: somebody is waiting for the next token of one of them;
        `num_wanted`: those that decode, come in or wait."""
        chunk = self._chunk(tuning, num_rows) if interactive else self._max_chunk
        return Limits(
            token_budget=chunk + tuning.max_batch_size,
            chunk_tokens=chunk,
            max_live=self.max_live(tuning),
            starvation_s=tuning.batch_starvation_s,
            max_guesses=tuning.prompt_lookup_tokens if max(num_rows, num_wanted) <= MAX_GUESSING_ROWS else 0,
            guess_price=self._costs.guess_price(max(num_rows, 1)),
        )

    def observe(self, step: Step, seconds: float, num_new: int, interactive: bool, full: bool, tuning: ModelTuning) -> None:
        """A step has run, and its sequences have got `num_new` tokens. `full`: somebody waits for one of the live rows to end."""
        num_rows = len(step.decodes)
        expected_s = self._costs.seconds(num_rows, step.num_prompt, step.num_guessed)
        self._drift += WEIGHT * (seconds / expected_s - self._drift)
        if tuning.target_itl_ms and interactive and not step.num_prompt:
            itl_ms = seconds * 1000 * num_rows / num_new  # of the mean row: right guesses bring several tokens at once
            self._follow(itl_ms > tuning.target_itl_ms, full, tuning.max_batch_size)

    def _chunk(self, tuning: ModelTuning, num_rows: int) -> int:
        decode_s = self._costs.seconds(num_rows, 0)
        room_s = tuning.target_itl_ms / 1000 / self._drift - decode_s if tuning.target_itl_ms else (SLOWDOWN - 1) * decode_s
        return int(max(MIN_CHUNK, min(self._max_chunk, room_s / self._costs.prompt_token_s)))

    def _follow(self, late: bool, full: bool, most: int) -> None:
        """Count a decode step; after a window of them, change the number of live rows. Only a limit that holds somebody back can rise."""
        self._live = min(self._live, most)
        self._num_steps += 1
        self._num_late += late
        self._was_full |= full
        if self._num_steps < WINDOW:
            return
        if self._num_late > WINDOW // 2:
            self._live = max(1.0, self._live * BACK_OFF)
        elif self._was_full and not self._num_late:
            self._live = min(self._live + 1, most)
        self._num_steps, self._num_late, self._was_full = 0, 0, False
