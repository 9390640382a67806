"""A world for the scheduler: a fake runner that knows what is really in each slot, and callers whose endings are counted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from random import Random
from typing import Any

from serve_app.messages import Priority
from serve_app.model.scheduler import MIN_PREFILL_TOKENS, Departure, Limits, Scheduler, Sequence, Step

LIMITS = Limits(token_budget=12, chunk_tokens=8, max_live=4, starvation_s=30.0, min_prefix=3)
SYSTEM = [7, 8, 9, 7, 8, 9]  # what many prompts begin with


class FakeRunner:
    """`kv[slot][position]` is the token whose KV was written there; None: nothing, or what a broken step left.

    It refuses to compute a position whose predecessors are not the sequence's own tokens: the answer would be wrong, silently.
    """

    def __init__(self, num_slots: int, slot_tokens: int) -> None:
        self.kv: list[list[int | None]] = [[None] * slot_tokens for _ in range(num_slots)]

    def run(self, step: Step) -> None:
        for copy in step.copies:
            self.kv[copy.target][: copy.num_tokens] = self.kv[copy.source][: copy.num_tokens]
        for slot, start, tokens in self._writes(step):
            assert self.kv[slot][:start] == tokens[:start]
            self.kv[slot][start : len(tokens)] = tokens[start:]

    def break_on(self, step: Step, random: Random) -> None:
        """Some of the copies happen; the rest, and all that the step computes, comes out as rubbish."""
        for copy in step.copies:
            done = random.random() < 0.5
            self.kv[copy.target][: copy.num_tokens] = self.kv[copy.source][: copy.num_tokens] if done else [None] * copy.num_tokens
        for slot, start, tokens in self._writes(step):
            self.kv[slot][start : len(tokens)] = [None] * (len(tokens) - start)

    def _writes(self, step: Step) -> list[tuple[int, int, list[int]]]:
        """Slot, first position to compute, and all tokens up to the last one that is computed."""
        writes = []
        for sequence in step.decodes:
            assert sequence.slot is not None
            known = sequence.prompt_ids + sequence.token_ids
            writes.append((sequence.slot, sequence.num_computed, known + list(step.guesses.get(sequence, ()))))
        for chunk in step.chunks:
            assert chunk.sequence.slot is not None
            writes.append((chunk.sequence.slot, chunk.start, chunk.sequence.prompt_ids[: chunk.stop]))
        assert len({slot for slot, _, _ in writes}) == len(writes)
        return writes


class World:
    """A scheduler at work. Every step is held against the rules, and `check` runs after every call."""

    def __init__(self, num_slots: int = 4, slot_tokens: int = 48, **limits: Any) -> None:
        self.num_slots = num_slots
        self.now = 0.0
        self.arrived: list[Sequence] = []
        self.endings: dict[int, str] = {}
        self.scheduler = Scheduler(num_slots, slot_tokens, replace(LIMITS, **limits))
        self.runner = FakeRunner(num_slots, slot_tokens)
        self._samples = Random(4)

    def arrive(
        self, prompt_ids: list[int], max_tokens: int = 4, priority: Priority = "interactive", within_s: float | None = None
    ) -> Sequence:
        deadline_at = None if within_s is None else self.now + within_s
        sequence = Sequence(len(self.arrived), prompt_ids, max_tokens, priority, self.now, deadline_at)
        self.scheduler.add(sequence)
        self.arrived.append(sequence)
        self.scheduler.check()
        return sequence

    def plan(self) -> Step:
        before = {sequence: sequence.state for sequence in self.scheduler.waiting + self.scheduler.running}
        step, departed = self.scheduler.plan(self.now)
        self.scheduler.check()
        for sequence, reason in departed:
            self._end(sequence, reason)
        self._judge(step, [sequence for sequence, state in before.items() if state == "waiting" and sequence.slot is not None])
        return step

    def step(self, stop: Collection[Sequence] = (), token: int | None = None, seconds: float = 1.0) -> Step:
        """Plan, run, settle. Everybody gets `token`, or one at random, and one more behind each right guess; those in `stop` end, and those
        with all their tokens."""
        step = self.plan()
        self.runner.run(step)
        tokens = {sequence: self._choose(step.guesses.get(sequence, ()), token) for sequence in step.yields}
        over = [
            sequence for sequence in tokens if sequence in stop or len(sequence.token_ids) + len(tokens[sequence]) == sequence.max_tokens
        ]
        self.scheduler.settle(step, list(tokens.values()), over)
        for sequence in over:
            self._end(sequence, "stop" if sequence in stop else "length")
        self.scheduler.check()
        self.now += seconds
        return step

    def _choose(self, guess: tuple[int, ...], token: int | None) -> list[int]:
        chosen = []
        for guessed in (*guess, None):
            chosen.append(self._samples.randrange(2) if token is None else token)
            if chosen[-1] != guessed:
                break
        return chosen

    def break_step(self, seed: int, rate: float = 0.5) -> None:
        """The next step breaks, and some of its sequences fail for it, or all."""
        random = Random(seed)
        step = self.plan()
        self.runner.break_on(step, random)
        blamed = [sequence for sequence in (*step.decodes, *(chunk.sequence for chunk in step.chunks)) if random.random() < rate]
        self.scheduler.fail(blamed)
        for sequence in blamed:
            self._end(sequence, "failed")
        self.scheduler.check()

    def fail(self, seed: int, rate: float) -> None:
        """Outside of any step, some of those that wait or run fail, as where an engine closes."""
        random = Random(seed)
        blamed = [sequence for sequence in self.scheduler.waiting + self.scheduler.running if random.random() < rate]
        self.scheduler.fail(blamed)
        for sequence in blamed:
            self._end(sequence, "failed")
        self.scheduler.check()

    def drain(self) -> None:
        """Step until everybody has ended, with nobody new: every step computes something, so there are no more than positions."""
        for _ in range(sum(len(sequence.prompt_ids) + sequence.max_tokens for sequence in self.arrived)):
            if not self.scheduler.waiting and not self.scheduler.running:
                break
            self.step()
        assert len(self.endings) == len(self.arrived)
        assert self.scheduler.num_free == self.num_slots

    def _end(self, sequence: Sequence, reason: Departure | str) -> None:
        assert sequence.number not in self.endings
        assert (sequence.state, sequence.slot) == ("ended", None)
        self.endings[sequence.number] = reason

    def _judge(self, step: Step, admitted: list[Sequence]) -> None:
        tuning, running = self.scheduler.tuning, self.scheduler.running
        chunked = [chunk.sequence for chunk in step.chunks]
        num_prefill = step.num_prompt
        assert step.guesses.keys() <= set(step.decodes)
        for sequence, guess in step.guesses.items():
            assert 1 <= len(guess) <= min(tuning.max_guesses, sequence.max_tokens - len(sequence.token_ids) - 1)
        assert set(step.decodes) == {sequence for sequence in running if sequence.state == "decode"}
        assert num_prefill <= min(tuning.chunk_tokens, max(tuning.token_budget - len(step.decodes), MIN_PREFILL_TOKENS))
        unread = sum(len(sequence.prompt_ids) - sequence.num_computed for sequence in running if sequence.state == "prefill")
        assert num_prefill >= min(unread, tuning.chunk_tokens, MIN_PREFILL_TOKENS)
        assert not step.is_empty or not (running or self.scheduler.waiting)
        assert all(chunk.start == chunk.sequence.num_computed < chunk.stop for chunk in step.chunks)
        assert set(admitted) <= set(chunked)
        assert not admitted or len(running) <= tuning.max_live
        assert {copy.target for copy in step.copies} <= {sequence.slot for sequence in admitted}
        self._judge_order(chunked, admitted)

    def _judge_order(self, chunked: list[Sequence], admitted: list[Sequence]) -> None:
        """Nobody goes before one who is more urgent, unless that one waits for a prefix of this very step."""
        tuning = self.scheduler.tuning

        def rank(sequence: Sequence) -> tuple[bool, float]:
            return sequence.priority == "batch" and self.now - sequence.arrived_at <= tuning.starvation_s, sequence.arrived_at

        assert [rank(sequence) for sequence in chunked] == sorted(rank(sequence) for sequence in chunked)
        prefixes = [sequence.prompt_ids[: tuning.min_prefix] for sequence in chunked]
        passed = [sequence for sequence in self.scheduler.waiting if sequence.prompt_ids[: tuning.min_prefix] not in prefixes]
        assert all(rank(sequence) <= rank(other) for sequence in admitted for other in passed)
