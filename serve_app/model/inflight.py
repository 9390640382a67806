"""In-flight batching: requests join the running batch at any step and leave it at their end, over a slot KV cache.

    admit (any thread) -> scheduler's line -> the engine's thread, step after step:  plan -> run -> choose -> settle

Who runs is decided in scheduler.py, what is computed in runner.py, how a token is chosen in choose.py, what it does to its row in rows.py.
A step that breaks costs the prompts that came in with it, or, where none did, its rows. Tests: tests/engine/test_inflight.py, with a tiny
real model; tests/model/test_runner.py.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from serve_app.errors import ModelLoadError
from serve_app.messages import FinishReason
from serve_app.metrics import Metrics
from serve_app.model.along import Along
from serve_app.model.devices import free_on
from serve_app.model.kvcache import num_slots_in
from serve_app.model.loader import LoadedModel
from serve_app.model.pace import MAX_CHUNK, Pace
from serve_app.model.rows import Row, Scored
from serve_app.model.runner import Runner, bytes_to_keep, dtype_of
from serve_app.model.scheduler import Scheduler, Sequence, Step
from serve_app.model.threaded import ThreadedEngine
from serve_app.settings import ModelSettings, ModelTuning

logger = logging.getLogger(__name__)

MAX_SLOTS = 256  # as max_batch_size
KEEP_SHARE = 0.25  # of the memory that is free, for weights that could stay packed


class SlotsEngine(ThreadedEngine):
    """An `Engine` (see engine.py) over one loaded model, its slots and one thread."""

    name = "slots-engine"
    kind = "slots"

    def __init__(
        self,
        loaded: LoadedModel,
        tuning: ModelTuning,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        started_at: float | None = None,
        *,
        runner: Runner,
        chunk_tokens: int = MAX_CHUNK,
    ) -> None:
        """`started_at`: the clock at the actor's start, from which `startup_s` counts; by default now. `chunk_tokens`: the longest."""
        self._runner = runner
        self._pace = Pace(runner.costs, chunk_tokens)
        limits = self._pace.limits(tuning, 0, interactive=False)
        self._scheduler = Scheduler(runner.num_slots, runner.slot_tokens, limits)  # guarded by _news
        self._numbers = itertools.count()
        self._rows: dict[Sequence, Row] = {}  # guarded by _news
        self._is_full = False  # somebody waits for a running row to end
        super().__init__(_described(loaded, runner), tuning, metrics, clock, started_at)

    def promote(self, request_id: str) -> None:
        """See Engine.promote."""
        with self._news:
            for sequence, row in self._rows.items():
                if row.stream.request.request_id == request_id:
                    row.stream.priority = "interactive"
                    self._scheduler.promote(sequence.number)

    def close(self, drain_s: float) -> None:
        """See Engine.close."""
        with self._news:
            self._closing = True
            left = [self._rows.pop(sequence) for sequence in self._scheduler.waiting]
            self._scheduler.fail(self._scheduler.waiting)
            self._books.waiting(0)
            self._news.notify()
        self._give_up(left)
        self._join(drain_s)
        with self._news:
            left = list(self._rows.values())
        self._give_up(left)  # a thread that hangs inside a step must not hang its callers too

    def _enqueue(self, row: Row) -> None:
        stream = row.stream
        sequence = Sequence(next(self._numbers), row.prompt_ids, row.max_tokens, stream.priority, stream.arrived_at)
        self._scheduler.add(sequence)
        self._rows[sequence] = row

    @property
    def _num_waiting(self) -> int:
        return len(self._scheduler.waiting)

    def _work(self) -> None:
        with self._runner.attached():
            while not (self._closing and not self._rows) and not self._abandoned.is_set():
                step = self._plan()
                if step.is_empty:
                    self._wait()
                else:
                    self._step(step)

    def _wait(self) -> None:
        with self._news:
            if self._rows or self._closing:
                return
            self._books.idle()
            self._news.wait_for(lambda: self._rows or self._closing)
            self._books.busy()

    def _plan(self) -> Step:
        """The next step, after those who left have got their ending."""
        with self._news:
            for sequence, row in self._rows.items():
                if row.stream.cancelled:
                    self._scheduler.cancel(sequence.number)
            decoding = [sequence for sequence in self._scheduler.running if sequence.state == "decode"]
            limits = self._scheduler.tuning = self._pace.limits(self._tuning, len(decoding), _is_interactive(decoding), len(self._rows))
            step, departed = self._scheduler.plan(self._clock())
            rows = [self._rows.pop(sequence) for sequence, _ in departed]
            self._books.waiting(self._num_waiting)
            self._books.limits(limits.max_live, limits.chunk_tokens)
            num_running = len(self._scheduler.running)
            self._is_full = self._num_waiting > 0 and num_running >= limits.max_live
            joined = [self._rows[chunk.sequence] for chunk in step.chunks if chunk.start == chunk.sequence.num_cached]
        for row in rows:
            self._books.finish(row, "cancelled")
        for row in joined:
            if row.started_at is None:
                self._books.join(row, num_running)
        return step

    def _step(self, step: Step) -> None:
        torch.set_num_threads(self._threads)  # see ThreadedEngine
        work = self._shares(step)
        began_at = self._clock()
        try:
            rows = [self._rows[sequence] for sequence in step.yields]
            guesses = [step.guesses.get(sequence, ()) for sequence in step.yields]
            along = Along(self._runner.run(step), rows, guesses, self._loaded.eos_ids)
        except Exception as error:  # a request must never end the thread
            self._recover(step, work, error)
            return
        tokens, over = self._take_all(along, step.yields, rows)
        num_tokens = sum(map(len, tokens))
        now = self._books.packed_step(work, step.num_prompt, num_tokens)
        self._books.guessed(step.num_guessed, num_tokens - len(tokens))
        self._pace.observe(step, now - began_at, num_tokens, _is_interactive(step.decodes), self._is_full, self._tuning)
        for row, reason in self._settle(step, tokens, over):  # after the books: who reads an ending may look into them
            self._books.finish(row, reason)

    def _take_all(
        self, along: Along, sequences: tuple[Sequence, ...], rows: list[Row]
    ) -> tuple[list[list[int]], dict[Sequence, FinishReason | None]]:
        """The new tokens of each; and those that end with them, and why."""
        over: dict[Sequence, FinishReason | None] = {}
        now = self._clock()

        def take(number: int, token: int, score: Scored | None) -> bool:
            row, sequence = rows[number], sequences[number]
            row.num_cached = sequence.num_cached
            if not row.live:  # `close` has ended it meanwhile
                over[sequence] = None
            elif reason := self._take(row, token, now, score):
                over[sequence] = reason
            return sequence not in over

        return along.take(take), over

    def _shares(self, step: Step) -> list[tuple[Row, float]]:
        """Seconds of each row's part of the step, by the measured costs: a decoding row takes longer than a prompt token."""
        costs = self._runner.costs
        each_s = costs.step_s / (len(step.decodes) + len(step.chunks))
        shares = [
            (self._rows[sequence], each_s + costs.row_s + costs.guess_s * len(step.guesses.get(sequence, ()))) for sequence in step.decodes
        ]
        return shares + [(self._rows[chunk.sequence], each_s + costs.prompt_token_s * (chunk.stop - chunk.start)) for chunk in step.chunks]

    def _take(self, row: Row, token: int, now: float, scored: Scored | None) -> FinishReason | None:
        """Why the token is the answer's last one, if it is."""
        if row.first_token_at is None:
            self._books.first_token(row, now)
        return row.take(token, now, scored)

    def _settle(self, step: Step, tokens: list[list[int]], over: dict[Sequence, FinishReason | None]) -> list[tuple[Row, FinishReason]]:
        """Free the slots of those that are over; their rows."""
        with self._news:
            self._scheduler.settle(step, tokens, over)
            rows = [(self._rows.pop(sequence, None), reason) for sequence, reason in over.items()]
            self._note_endings(len(over))
            self._books.running(len(self._scheduler.running))
        return [(row, reason) for row, reason in rows if row is not None and reason is not None]

    def _recover(self, step: Step, work: list[tuple[Row, float]], error: Exception) -> None:
        """Who came in with this step has most likely broken it: the others do it again without them."""
        rows = [row for row, _ in work]
        self._books.broken([row for row in rows if row.live])
        broken = {chunk.sequence for chunk in step.chunks} or set(step.decodes)
        ids = ", ".join(self._rows[sequence].stream.request.request_id for sequence in broken)
        logger.error("a step broke; these requests are given up: %s", ids, exc_info=error)
        with self._news:
            self._scheduler.fail(broken)
            failed = [self._rows.pop(sequence) for sequence in broken]
        for row in failed:
            self._fail(row)

    def _over(self) -> None:
        with self._news:
            left, self._rows = list(self._rows.values()), {}
            self._scheduler.fail([*self._scheduler.waiting, *self._scheduler.running])
            self._books.running(0)
        self._give_up(left)


def _is_interactive(sequences: Iterable[Sequence]) -> bool:
    return any(sequence.priority == "interactive" for sequence in sequences)


def slots_of(loaded: LoadedModel, settings: ModelSettings) -> Runner:
    """A runner with as many slots of the model's whole context as `kv_cache_mb` holds, at most `MAX_SLOTS`, that knows what its steps take.

    Raises:
        ModelLoadError: not one slot fits into it, or the budget or the unpacked weights not into the machine.
    """
    model, slot_tokens = loaded.model, min(loaded.card.max_context, loaded.max_positions)
    budget_bytes = settings.kv_cache_mb * 1_000_000
    num_slots = num_slots_in(budget_bytes, model.config.get_text_config(), slot_tokens, dtype_of(model), str(model.device))
    runner = Runner(model, min(num_slots, MAX_SLOTS), slot_tokens, keeps(model, settings, budget_bytes))
    runner.measure()
    return runner


def _described(loaded: LoadedModel, runner: Runner) -> LoadedModel:
    """With what the runner holds beside the model's own weights."""
    if not runner.kept_bytes:
        return loaded
    note = (
        f"4-bit weights are also held in bf16 ({runner.kept_bytes / 1e6:.0f} MB), which is quicker; model.keep_unpacked: false saves that"
    )
    card = replace(loaded.card, weights_bytes=loaded.card.weights_bytes + runner.kept_bytes, notes=(*loaded.card.notes, note))
    return replace(loaded, card=card)


def keeps(model: Any, settings: ModelSettings, kv_bytes: int) -> bool:
    """Whether a bf16 copy of 4-bit weights is held beside a KV cache of so many bytes.

    Raises:
        ModelLoadError: it shall, and does not fit, with the arithmetic.
    """
    need = bytes_to_keep(model)
    if not settings.keep_unpacked or not need:
        return False
    free = free_on("cpu")
    if settings.keep_unpacked == "auto":
        return need <= max(free - kv_bytes, 0) * KEEP_SHARE
    if need + kv_bytes > free:
        raise ModelLoadError(
            f"the unpacked weights take {need / 1e6:,.0f} MB and the KV cache {kv_bytes / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free; "
            "set model.keep_unpacked: false, or lower model.kv_cache_mb"
        )
    return True
