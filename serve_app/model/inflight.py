"""In-flight batching: requests join the running batch at any step and leave it at their end, over a slot KV cache.

    admit (any thread) -> scheduler's line -> the engine's thread, step after step:  plan -> run -> choose -> settle

Who runs is decided in scheduler.py, what is computed in runner.py, how a token is chosen in choose.py, what it does to its row in rows.py.
A step that breaks costs the prompts that came in with it, or, where none did, its rows. Tests: tests/fast/test_inflight.py, with a tiny
real model; tests/model/test_runner.py.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection

import torch

from serve_app.metrics import Metrics
from serve_app.model.choose import choose
from serve_app.model.loader import LoadedModel
from serve_app.model.rows import Row
from serve_app.model.runner import Runner, num_slots_in
from serve_app.model.scheduler import Limits, Scheduler, Sequence, Step
from serve_app.model.threaded import ThreadedEngine
from serve_app.settings import ModelTuning

logger = logging.getLogger(__name__)

MAX_SLOTS = 256  # as max_batch_size
CHUNK_TOKENS = 512  # prompt tokens of one step: below, the model's weights are unpacked too often; above, running rows wait too long


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
    ) -> None:
        """`started_at`: the clock at the actor's start, from which `startup_s` counts; by default now."""
        self._runner = runner
        self._scheduler = Scheduler(runner.num_slots, runner.slot_tokens, _limits(tuning))  # guarded by _news
        self._numbers = itertools.count()
        self._rows: dict[Sequence, Row] = {}  # guarded by _news
        super().__init__(loaded, tuning, metrics, clock, started_at)

    def tune(self, tuning: ModelTuning) -> None:
        """See Engine.tune."""
        super().tune(tuning)
        with self._news:
            self._scheduler.tuning = _limits(tuning)

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
            step, departed = self._scheduler.plan(self._clock())
            rows = [self._rows.pop(sequence) for sequence, _ in departed]
            self._books.waiting(self._num_waiting)
            num_running = len(self._scheduler.running)
            joined = [self._rows[chunk.sequence] for chunk in step.chunks if chunk.start == chunk.sequence.num_cached]
        for row in rows:
            self._books.finish(row, "cancelled")
        for row in joined:
            if row.started_at is None:
                self._books.join(row, num_running)
        return step

    def _step(self, step: Step) -> None:
        torch.set_num_threads(self._threads)  # see ThreadedEngine
        work = [(self._rows[sequence], 1) for sequence in step.decodes]
        work += [(self._rows[chunk.sequence], chunk.stop - chunk.start) for chunk in step.chunks]
        try:
            logits = self._runner.run(step)
            rows = [self._rows[sequence] for sequence in step.yields]
            tokens = choose(logits, rows, self._loaded.eos_ids)
        except Exception as error:  # a request must never end the thread
            self._recover(step, work, error)
            return
        num_prompt = sum(chunk.stop - chunk.start for chunk in step.chunks)
        now = self._books.packed_step(work, num_prompt, len(rows))
        over = []
        for sequence, row, token in zip(step.yields, rows, tokens, strict=True):
            row.num_cached = sequence.num_cached
            if self._take(row, token, now):
                over.append(sequence)
        self._settle(step, tokens, over)

    def _take(self, row: Row, token: int, now: float) -> bool:
        """True where the token is the answer's last one."""
        if not row.live:  # `close` has ended it meanwhile
            return True
        if row.first_token_at is None:
            self._books.first_token(row, now)
        reason = row.take(token, now)
        if reason is None:
            return False
        self._books.finish(row, reason)
        return True

    def _settle(self, step: Step, tokens: list[int], over: Collection[Sequence]) -> None:
        with self._news:
            self._scheduler.settle(step, tokens, over)
            for sequence in over:
                self._rows.pop(sequence, None)
            self._note_endings(len(over))
            self._books.running(len(self._scheduler.running))

    def _recover(self, step: Step, work: list[tuple[Row, int]], error: Exception) -> None:
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


def slots_of(loaded: LoadedModel, budget_bytes: int) -> Runner:
    """A runner with as many slots of the model's whole context as a memory budget holds, at most `MAX_SLOTS`.

    Raises:
        ModelLoadError: not one slot fits into it, or the budget not into the machine.
    """
    slot_tokens = min(loaded.card.max_context, loaded.max_positions)
    return Runner(loaded.model, min(num_slots_in(budget_bytes, loaded.model, slot_tokens), MAX_SLOTS), slot_tokens)


def _limits(tuning: ModelTuning) -> Limits:
    return Limits(
        token_budget=CHUNK_TOKENS + tuning.max_batch_size,
        chunk_tokens=CHUNK_TOKENS,
        max_live=tuning.max_batch_size,
        starvation_s=tuning.batch_starvation_s,
    )
