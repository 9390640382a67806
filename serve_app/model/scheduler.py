"""The scheduler of the in-flight batching engine: who runs in which slot, and what the next step computes.

Decides only: integers, floats and lists; no tensors, threads or clock. Whoever calls holds a lock, where several threads do. It must not
know text, stop rules or how KV is computed. The order of calls is `plan`, run the step, `settle`; or `fail` where the step broke. Tests:
tests/engine/test_scheduler.py, and tests/engine/test_scheduler_slots.py for prefixes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Sequence as Tokens

from serve_app.model.lookup import Lookup
from serve_app.model.slots import Slots
from serve_app.model.steps import TOKEN_BYTES, Chunk, Copy, Departure, Limits, Sequence, State, Step, pack

__all__ = ["MIN_PREFILL_TOKENS", "Chunk", "Copy", "Departure", "Limits", "Scheduler", "Sequence", "State", "Step"]

# Prompt tokens that a step computes even where its decodes fill the budget: without, no prompt would start before a running answer ends.
# 16 rows beside a full batch of decodes cost little of a step, and take a prompt of 500 tokens in 32 steps.
MIN_PREFILL_TOKENS = 16


class Scheduler:
    """Sequences wait, run in a slot and end, each exactly once: by `plan` (left or too late), `settle` (its answer is over) or `fail`."""

    def __init__(self, num_slots: int, slot_tokens: int, tuning: Limits) -> None:
        self.tuning = tuning  # may be replaced between any two calls; a lower `max_live` throws nobody out
        self._slots = Slots(num_slots, slot_tokens)
        self._waiting: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._leaving: set[int] = set()
        self._planned: Step | None = None  # until it is settled

    @property
    def waiting(self) -> list[Sequence]:
        """Those without a slot, in the order in which they were added."""
        return list(self._waiting.values())

    @property
    def running(self) -> list[Sequence]:
        """Those with a slot, in the order in which they got it."""
        return list(self._running.values())

    @property
    def num_free(self) -> int:
        """Slots without a running sequence, whether they hold KV or not."""
        return self._slots.num_free

    def add(self, sequence: Sequence) -> None:
        """Take in a new sequence. ValueError where it could never be served."""
        num_prompt, slot_tokens = len(sequence.prompt_ids), self._slots.slot_tokens
        if num_prompt < 1 or sequence.max_tokens < 1:
            raise ValueError("a sequence needs at least one prompt token and max_tokens of at least 1")
        if num_prompt + sequence.max_tokens > slot_tokens:
            raise ValueError(f"{num_prompt} prompt tokens and max_tokens {sequence.max_tokens} do not fit into a slot of {slot_tokens}")
        if sequence.state != "waiting" or sequence.number in self._waiting or sequence.number in self._running:
            raise ValueError(f"sequence {sequence.number} has been added before; make a new one with a number of its own")
        self._waiting[sequence.number] = sequence

    def cancel(self, number: int) -> None:
        """Its caller has left: the next `plan` ends it. Nothing where it is not here (any more)."""
        if number in self._waiting or number in self._running:
            self._leaving.add(number)

    def promote(self, number: int) -> None:
        """From now on it is interactive, in the line and in prefill. Nothing where it is not here (any more)."""
        sequence = self._waiting.get(number) or self._running.get(number)
        if sequence is not None:
            sequence.priority = "interactive"

    def plan(self, now: float) -> tuple[Step, list[tuple[Sequence, Departure]]]:
        """The next step, and who was ended before it. A step planned earlier and not settled counts as not run."""
        self._doubt_planned()
        ended = self._end_departed(now)
        decodes = tuple(sequence for sequence in self._running.values() if sequence.state == "decode")
        copies, chunks = self._plan_prefill(now, len(decodes))
        self._planned = Step(tuple(copies), decodes, tuple(chunks), self._guess(decodes))
        return self._planned, ended

    def settle(self, step: Step, tokens: Tokens[Tokens[int]], ended: Collection[Sequence]) -> None:
        """The planned step has run. `tokens` come in the order of `step.yields`: of each sequence its next one, and behind a right guess
        the one after it, and so on. `ended` are those whose answer is over, for any reason.

        Who has been failed since `plan` is passed over. ValueError, and nothing is changed, for a step that is not the planned one, for
        wrong numbers of tokens, and for a sequence that has all its tokens but is not in `ended`: one more might not fit into its slot.
        """
        over = set(ended)
        self._refuse_settling(step, tokens, over)
        self._planned = None
        tokens_of = dict(zip(step.yields, tokens, strict=True))
        computed = [(sequence, [*sequence.token_ids[-1:], *tokens_of[sequence][:-1]]) for sequence in step.decodes]
        computed += [(chunk.sequence, chunk.sequence.prompt_ids[chunk.start : chunk.stop]) for chunk in step.chunks]
        for sequence, token_ids in computed:
            if sequence.slot is None:  # failed meanwhile
                continue
            self._slots.write(sequence.slot, pack(token_ids))
            sequence.num_computed += len(token_ids)
            if new := tokens_of.get(sequence):
                sequence.token_ids += new
                sequence.state = "decode"
                _learn(sequence, step.guesses.get(sequence), new)
        for sequence in over:
            self._end(sequence)

    def fail(self, sequences: Iterable[Sequence]) -> None:
        """A step broke on these: they end, and what is in their slots is not reused. The step's other sequences do it again."""
        for sequence in sequences:
            if sequence.slot is not None:
                self._slots.empty(sequence.slot)
            self._end(sequence)

    def check(self) -> None:
        """AssertionError where an invariant is broken."""
        waiting, running, slots = self._waiting, self._running, self._slots
        taken = [sequence.slot for sequence in running.values()]
        _must(len(set(taken)) == len(taken), "two sequences in one slot")
        _must(slots.num_free + len(taken) == slots.num_slots, "a slot is lost, or there twice")
        _must(not waiting.keys() & running.keys(), "a sequence both waits and runs")
        _must(self._leaving <= waiting.keys() | running.keys(), "a cancellation outlives its sequence")
        for number, sequence in (waiting | running).items():
            _must(sequence.number == number, "a number was changed")
        for sequence in waiting.values():
            _must(sequence.state == "waiting" and sequence.slot is None, "a waiting sequence is not waiting")
            _must(sequence.num_computed == 0 and not sequence.token_ids, "a waiting sequence was computed")
        for sequence in running.values():
            self._check_running(sequence)
        for slot in range(slots.num_slots):
            _must(len(slots.contents(slot)) <= slots.slot_tokens * TOKEN_BYTES, "a slot holds more than fits")

    def _check_running(self, sequence: Sequence) -> None:
        num_prompt, num_generated = len(sequence.prompt_ids), len(sequence.token_ids)
        if sequence.state == "prefill":
            _must(num_generated == 0 and sequence.num_computed < num_prompt, "a computed prompt is still in prefill")
        else:
            _must(sequence.state == "decode", "a running sequence does not run")
            _must(0 < num_generated < sequence.max_tokens, "a decoding sequence has no token, or all of them")
            _must(sequence.num_computed == num_prompt + num_generated - 1, "all but the last token's KV must be computed")
        _must(0 <= sequence.num_cached <= min(sequence.num_computed, num_prompt - 1), "more is cached than was computed")
        _must(sequence.slot is not None and not self._slots.is_free(sequence.slot), "a running sequence has no slot of its own")
        own = pack(itertools.islice(itertools.chain(sequence.prompt_ids, sequence.token_ids), sequence.num_computed))
        _must(sequence.slot is not None and self._slots.contents(sequence.slot) == own, "a slot's books differ from what was computed")

    def _doubt_planned(self) -> None:
        """The planned step broke. Chunks and decodes are just done again, over whatever they wrote; copies may not have happened, and their
        sources may be gone, so whoever relied on one starts from nothing."""
        if self._planned is None:
            return
        targets = {copy.target for copy in self._planned.copies}
        for chunk in self._planned.chunks:
            sequence = chunk.sequence
            if sequence.slot is not None and sequence.slot in targets:
                self._slots.empty(sequence.slot)
                sequence.num_cached = sequence.num_computed = 0
        self._planned = None

    def _end_departed(self, now: float) -> list[tuple[Sequence, Departure]]:
        ended: list[tuple[Sequence, Departure]] = []
        for sequence in (*self._waiting.values(), *self._running.values()):
            if sequence.number in self._leaving:
                ended.append((sequence, "cancelled"))
            elif sequence.deadline_at is not None and now >= sequence.deadline_at:
                ended.append((sequence, "deadline"))
        for sequence, _ in ended:
            self._end(sequence)
        return ended

    def _end(self, sequence: Sequence) -> None:
        """Its ending, unless it has one. The slot's contents stay."""
        if sequence.slot is not None:
            self._slots.release(sequence.slot)
            del self._running[sequence.number]
        elif self._waiting.get(sequence.number) is sequence:
            del self._waiting[sequence.number]
        else:
            return
        self._leaving.discard(sequence.number)
        sequence.slot, sequence.state = None, "ended"

    def _guess(self, decodes: Iterable[Sequence]) -> Mapping[Sequence, tuple[int, ...]]:
        """What may follow, of those of which something is known; never more than the answer may still have."""
        guesses = {}
        for sequence in decodes if self.tuning.max_guesses else ():
            if sequence.lookup is None:
                sequence.lookup = Lookup(itertools.chain(sequence.prompt_ids, sequence.token_ids))
            most = min(self.tuning.max_guesses, sequence.max_tokens - len(sequence.token_ids) - 1)
            if guess := sequence.lookup.guess(most, self.tuning.guess_price):
                guesses[sequence] = guess
        return guesses

    def _plan_prefill(self, now: float, num_decodes: int) -> tuple[list[Copy], list[Chunk]]:
        """Share the step's prefill among prompts in slots and those that wait, by rank.

        A prompt gets its slot only when its first chunk is planned: until then a more urgent one may still go before it, a retired slot
        keeps its KV, and the prompts before it in the line become prefixes that it can reuse.
        """
        left = min(self.tuning.chunk_tokens, max(self.tuning.token_budget - num_decodes, MIN_PREFILL_TOKENS))
        copies: list[Copy] = []
        chunks: list[Chunk] = []
        for sequence in self._candidates(now):
            if sequence.slot is None and not self._admit(sequence, copies, chunks):
                continue
            start = sequence.num_computed
            chunk = Chunk(sequence, start, min(start + left, len(sequence.prompt_ids)))
            chunks.append(chunk)
            left -= chunk.stop - chunk.start
            if not left:
                break
        return copies, chunks

    def _candidates(self, now: float) -> list[Sequence]:
        """Prompts in slots, and as many that wait as there is room for: interactive and starved ones first, then first come first served.

        The same rank holds in the line and in prefill, so that a starved batch prompt is not passed for ever in its slot, either.
        """

        def rank(sequence: Sequence) -> tuple[bool, float]:
            starved = now - sequence.arrived_at > self.tuning.starvation_s
            return sequence.priority == "batch" and not starved, sequence.arrived_at

        room = min(self.num_free, self.tuning.max_live - len(self._running))
        prefilling = [sequence for sequence in self._running.values() if sequence.state == "prefill"]
        return sorted([*prefilling, *heapq.nsmallest(max(room, 0), self._waiting.values(), rank)], key=rank)

    def _admit(self, sequence: Sequence, copies: list[Copy], chunks: list[Chunk]) -> bool:
        """Give it a slot, with the longest prefix of its prompt that some slot holds; False where it had better wait for one more step.

        That is where one of this step's prompts will be a clearly longer prefix once it is computed: 32 chats that arrive together share
        their system prompt. Prefill is left for this sequence, so every chunk before it completes its prompt, and the wait is one step; the
        room that it was counted for stays free meanwhile. A longer prefix that is still computed over several steps is not waited for.
        """
        min_prefix = self.tuning.min_prefix
        source, num_cached = self._slots.longest(sequence.packed)
        if num_cached < min_prefix:
            source, num_cached = None, 0
        worth = num_cached + min_prefix
        if worth < len(sequence.prompt_ids):
            prefix = sequence.packed[: worth * TOKEN_BYTES]
            if any(chunk.sequence.packed.startswith(prefix) for chunk in chunks):
                return False
        sequence.slot, copy = self._slots.take(source, num_cached)
        if copy is not None:
            copies.append(copy)
        sequence.num_cached = sequence.num_computed = num_cached
        sequence.state = "prefill"
        self._running[sequence.number] = self._waiting.pop(sequence.number)
        return True

    def _refuse_settling(self, step: Step, tokens: Tokens[Tokens[int]], over: set[Sequence]) -> None:
        if step is not self._planned:
            raise ValueError("this is not the step that was planned last, or it has been settled; settle each step once, before the next")
        yields = step.yields
        if len(tokens) != len(yields):
            raise ValueError(f"tokens of {len(tokens)} sequences for {len(yields)}; give those of each of step.yields")
        for sequence, new in zip(yields, tokens, strict=True):
            guess = step.guesses.get(sequence, ())
            if not 1 <= len(new) <= 1 + len(guess) or tuple(new[:-1]) != guess[: len(new) - 1]:
                raise ValueError(f"sequence {sequence.number} has got {list(new)}; it gets one token, and one more behind each right guess")
            if sequence.slot is not None and sequence not in over and len(sequence.token_ids) + len(new) >= sequence.max_tokens:
                raise ValueError(f"sequence {sequence.number} has all its {sequence.max_tokens} tokens; end it")


def _learn(sequence: Sequence, guess: tuple[int, ...] | None, new: Tokens[int]) -> None:
    if sequence.lookup is not None:
        sequence.lookup.extend(new)
        if guess:
            sequence.lookup.learn(len(guess), len(new) - 1)


def _must(holds: bool, otherwise: str) -> None:
    if not holds:  # not `assert`, which python -O leaves out
        raise AssertionError(otherwise)
