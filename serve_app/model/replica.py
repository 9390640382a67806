"""One Model replica without Ray: loads the weights, admits groups to the engine, and writes its time into the books about once a second.

It is in the books from its first moment on, so that /ready can say what it is doing and a kill loses at most the last second.
Knows no HTTP, no cache and, but for `load_engine`, no torch. Tests: tests/fast/test_replica.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from serve_app.costs import request_cost_usd
from serve_app.errors import FrugalError, Unavailable
from serve_app.live import Live
from serve_app.messages import Failed, Finish, Generate, Item, ModelCard
from serve_app.metrics import Metrics
from serve_app.model.engine import Account, Engine, Stream
from serve_app.model.openmp import compute_apart
from serve_app.model.source import stay_offline
from serve_app.resources import num_cores
from serve_app.settings import AppSettings, ModelTuning
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger, ReplicaRow

log = logging.getLogger(__name__)

BEAT_S = 1.0
ALIVE_S = 5.0  # a replica that was not seen for longer does not count when the cores are shared out

Admit = Callable[[Stream], Awaitable[Stream | FrugalError]]
Report = Callable[[str], None]
MakeEngine = Callable[[ModelTuning, Metrics, float], Engine]  # the float: `time.monotonic` at the actor's start


def load_engine(app: AppSettings, threads: int, report: Report) -> MakeEngine:
    """Load the weights; what makes the configured engine of them.

    Raises:
        ModelLoadError: with what to change.
    """
    # Imported here: torch and transformers take seconds, which belong to the measured start, and want the environment set before.
    report("importing torch and transformers")
    stay_offline(app.model.source)
    from serve_app.model.loader import load

    loaded = load(app.model, app.data_path, threads, report)
    if app.model.engine == "static":
        from serve_app.model.static import StaticEngine

        return lambda tuning, metrics, started_at: StaticEngine(loaded, tuning, metrics, started_at=started_at)
    report("making the KV cache")
    budget_bytes = app.model.kv_cache_mb * 1_000_000
    if app.model.engine == "transformers":
        from serve_app.model.continuous import TransformersEngine
        from serve_app.model.paged import PagedBatching

        batching = PagedBatching(loaded, budget_bytes)
        return lambda tuning, metrics, started_at: TransformersEngine(loaded, tuning, metrics, started_at=started_at, batching=batching)
    from serve_app.model.inflight import SlotsEngine, slots_of

    runner = slots_of(loaded, app.model)
    return lambda tuning, metrics, started_at: SlotsEngine(loaded, tuning, metrics, started_at=started_at, runner=runner)


class ModelReplica:
    """`started_at`: the actor's start in Unix time, from which this replica's time counts; by default now."""

    def __init__(
        self,
        app: AppSettings,
        replica_id: str,
        session: str = "",
        load: Callable[[AppSettings, int, Report], MakeEngine] = load_engine,
        started_at: float | None = None,
    ) -> None:
        self._app = app
        self._load_engine = load
        self._id = replica_id
        self._host = socket.gethostname()
        now, clock = time.time(), time.monotonic()
        self._started_at = now if started_at is None else min(started_at, now)
        self._started_clock = clock - (now - self._started_at)
        self._tuning = Live(ModelTuning, "Model.user_config", app.kept_settings("Model"), session)
        self._database = Database(app.database)
        self._ledger = Ledger(self._database)
        self._phase = "starting"
        self._engine: Engine | None = None
        self._beat_task: asyncio.Task[None] | None = None
        self._writing = threading.Lock()  # of the row; held over the write, so that rows are stored in the order of their making
        self._closed = False  # the row that says `stopped` is written: there is none after it
        self._charging = threading.Lock()  # of the four below and of the price they grow by
        self._cost_usd, self._charged_s = 0.0, 0.0
        self._allocation_usd, self._charged_clock = 0.0, self._started_clock
        self._threads = 0
        self._num_streams = 0
        self.metrics = Metrics()

    async def start(self) -> None:
        """Load the weights and start the engine.

        Raises:
            ModelLoadError: with what to change.
        """
        self._beat_task = asyncio.create_task(self._beat_forever())
        try:
            await asyncio.to_thread(compute_apart, self._load)
        except Exception as error:
            self._phase = f"failed: {error.message if isinstance(error, FrugalError) else f'{type(error).__name__}: {error}'}"
            self._beat_task.cancel()
            await self.beat(stopped=True)
            raise
        self._phase = "ready"
        await self.beat()

    def _load(self) -> None:
        self._threads = self._share_of_cores()
        make = self._load_engine(self._app, self._threads, self._report)
        self._engine = make(self._tuning.value, self.metrics, self._started_clock)

    def _report(self, phase: str) -> None:
        log.info("model %s: %s", self._app.model.id, phase)
        self._phase = phase

    @property
    def engine(self) -> Engine:
        """The running engine.

        Raises:
            Unavailable: the weights are still loading.
        """
        if self._engine is None:
            raise Unavailable(f"model {self._app.model.id} is still loading ({self._phase}); try again shortly", retry_after_s=5)
        return self._engine

    @property
    def card(self) -> ModelCard:
        """Who answers."""
        return self.engine.card

    async def generate(self, request: Generate, admit: Admit) -> AsyncGenerator[Item, None]:
        """Chunks and one ending; leaving early cancels the row within one step. `admit` brings the stream to `engine.admit` in a group."""
        stream = Stream(request)
        self._num_streams += 1
        try:
            admitted = await admit(stream)
            if isinstance(admitted, FrugalError):
                yield Failed(admitted)
                return
            async for item in stream:
                yield item
                if isinstance(item, Finish | Failed):
                    return
                # The first piece went at once. Each costs a message through two handles and HAProxy: 1,000 a second took 40 % of two cores.
                await stream.gather(self._num_streams / self._tuning.value.max_chunks_per_s)
        finally:
            self._num_streams -= 1
            stream.cancel()

    @property
    def tuning(self) -> ModelTuning:
        """The tuning in force."""
        return self._tuning.value

    @property
    def settings_error(self) -> str | None:
        """What is wrong with the last settings that were not taken over."""
        return self._tuning.error

    def tune(self, data: Mapping[str, Any]) -> None:
        """Take new settings over, or keep the old ones and say why in `settings_error`."""
        with self._charging:
            self._charge()
            self._tuning.update(data)
        if self._engine is not None:
            self._engine.tune(self._tuning.value)

    def check(self) -> None:
        """Raise where this replica must be replaced."""
        if self._engine is not None and not self._engine.alive():
            raise RuntimeError("the engine's thread is gone")
        if self._beat_task is not None and self._beat_task.done():
            raise RuntimeError("the task that keeps the books is gone")

    async def beat(self, *, stopped: bool = False) -> None:
        """Write this replica's row and share the node's cores anew. Nothing after the row that says `stopped`."""
        await asyncio.to_thread(self._beat, stopped)

    def _beat(self, stopped: bool) -> None:
        # A lock of threads, not of the loop: a cancelled beat gives the latter back while its thread is still writing.
        with self._writing:
            if self._closed:
                return
            self._closed = stopped
            self._ledger.put_replica(self._row(stopped))
        threads = self._share_of_cores()
        if self._engine is not None and threads != self._threads:
            self._threads = threads
            self._engine.set_threads(threads)

    def _row(self, stopped: bool) -> ReplicaRow:
        with self._charging:
            account, now = self._charge()
            parts = {field.name: getattr(account, field.name) for field in dataclasses.fields(ReplicaRow) if hasattr(account, field.name)}
            return ReplicaRow(
                id=self._id,
                model=self._app.model.id,
                host=self._host,
                phase=self._phase,
                started_at=self._started_at,
                last_seen_at=now,
                stopped_at=now if stopped else None,
                price_per_hour_usd=self._tuning.value.price_per_replica_hour_usd,
                cost_usd=self._cost_usd,
                allocation_usd=self._allocation_usd,
                **parts,
            )

    def _charge(self) -> tuple[Account, float]:
        """With `_charging` held: charge what passed since the last call, used and in all, at the price in force.

        Returns the account up to now, and now as a Unix time, read next to each other so that the two agree.
        """
        clock, now = time.monotonic(), time.time()
        account = self._engine.account() if self._engine else Account(startup_s=clock - self._started_clock)
        price = self._tuning.value.price_per_replica_hour_usd
        self._cost_usd += request_cost_usd(account.used_s - self._charged_s, price)
        self._allocation_usd += request_cost_usd(clock - self._charged_clock, price)
        self._charged_s, self._charged_clock = account.used_s, clock
        return account, now

    def _share_of_cores(self) -> int:
        """`threads: auto` divides the node's cores among its live Model replicas."""
        if self._app.model.threads != "auto":
            return self._app.model.threads
        cores = num_cores()
        return max(1, cores // max(1, self._ledger.live_replicas(self._host, time.time() - ALIVE_S)))

    async def _beat_forever(self) -> None:
        while True:
            try:
                await self.beat()
            except Exception:
                log.exception("cannot write the replica's books; trying again")
            await asyncio.sleep(BEAT_S)

    async def stop(self, drain_s: float) -> None:
        """Let running rows finish within `drain_s` seconds, then close the books."""
        if self._beat_task is not None:
            self._beat_task.cancel()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close, drain_s)
        self._phase = "stopped"
        await self.beat(stopped=True)
        self._database.close()
