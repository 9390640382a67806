"""A Model replica with a fake engine: what it writes into the books while it lives, and how its streams end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from serve_app.errors import FrugalError, ModelLoadError, Overloaded, Unavailable
from serve_app.messages import Chunk, Failed, Generate, ModelCard, Sampling
from serve_app.metrics import Metrics
from serve_app.model.engine import Account, Engine, Stream
from serve_app.model.replica import MakeEngine, ModelReplica, Report
from serve_app.settings import AppSettings, ModelTuning
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger, ReplicaRow
from tests.fast.fakes import finish
from tests.fast.fakes_api import CARD

REQUEST = Generate("r1", "tiny", Sampling(), prompt="Hi")
HOUR = 3600.0


class FakeEngine:
    """Does what the test says; its account is what the test writes there."""

    def __init__(self, threads: int) -> None:
        self.books = Account()
        self.threads = threads
        self.tuned: list[ModelTuning] = []
        self.streams: list[Stream] = []
        self.came = asyncio.Event()
        self.refusal: FrugalError | None = None
        self.drained_s: float | None = None
        self.looked_at: Callable[[], None] = lambda: None

    @property
    def card(self) -> ModelCard:
        return CARD

    def admit(self, group: Sequence[Stream]) -> list[Stream | FrugalError]:
        self.streams += group
        self.came.set()
        return [self.refusal or stream for stream in group]

    def tune(self, tuning: ModelTuning) -> None:
        self.tuned.append(tuning)

    def set_threads(self, num_threads: int) -> None:
        self.threads = num_threads

    def promote(self, request_id: str) -> None:
        raise NotImplementedError

    def account(self) -> Account:
        self.looked_at()
        return replace(self.books)

    def alive(self) -> bool:
        return self.drained_s is None

    def close(self, drain_s: float) -> None:
        self.drained_s = drain_s


class Loading:
    """A load that goes on when the test says so: `report` its phases, then `finish` or `fail` it."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.engine = FakeEngine(0)
        self.report: Report = print

    def __call__(self, app: AppSettings, threads: int, report: Report) -> MakeEngine:
        self.engine.threads, self.report = threads, report
        self.begun.set()
        assert self.ended.wait(30)
        if self.error is not None:
            raise self.error
        return self._make

    def _make(self, tuning: ModelTuning, metrics: Metrics, started_at: float) -> Engine:
        self.engine.tune(tuning)
        return self.engine

    def finish(self) -> FakeEngine:
        self.ended.set()
        return self.engine

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()


class Home:
    """A database that replicas share, and the replicas; all are stopped at the end."""

    def __init__(self, folder: pathlib.Path, database_url: str) -> None:
        self.app = AppSettings(data_dir=str(folder), database_url=database_url)
        self.database = Database(self.app.database)
        self.ledger = Ledger(self.database)
        self.replicas: list[ModelReplica] = []

    def replica(self, load: Loading) -> ModelReplica:
        self.replicas.append(ModelReplica(self.app, "one", load=load))
        return self.replicas[-1]

    async def ready(self, price_per_hour_usd: float = 3600.0) -> tuple[ModelReplica, FakeEngine]:
        loading = Loading()
        engine, replica = loading.finish(), self.replica(loading)
        replica.tune({"price_per_replica_hour_usd": price_per_hour_usd})
        await replica.start()
        return replica, engine

    def row(self, id: str = "one") -> ReplicaRow:
        (found,) = [row for row in self.ledger.replicas() if row.id == id]
        return found


@pytest.fixture
async def home(tmp_path: pathlib.Path, database_url: str) -> AsyncIterator[Home]:
    made = Home(tmp_path, database_url)
    yield made
    for replica in made.replicas:
        await replica.stop(0)
    made.database.close()


async def test_while_it_loads_its_row_says_what_it_does_and_its_time_is_the_start(home: Home) -> None:
    loading = Loading()
    replica = home.replica(loading)
    starting = asyncio.create_task(replica.start())
    await asyncio.to_thread(loading.begun.wait, 30)
    for phase in ("reading weights", "measuring"):
        loading.report(phase)
        await replica.beat()
        row = home.row()
        assert (row.phase, row.stopped_at, row.used_s, row.idle_s) == (phase, None, 0, 0)
        assert row.startup_s == pytest.approx(row.last_seen_at - row.started_at, abs=0.1)
    with pytest.raises(Unavailable, match=r"still loading \(measuring\)"):
        _ = replica.card
    loading.finish()
    await starting
    assert home.row().phase == "ready"
    replica.check()


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (ModelLoadError("no such file; correct model.source"), "failed: no such file; correct model.source"),
        (ImportError("no libtorch"), "failed: ImportError: no libtorch"),
    ],
)
async def test_a_load_that_fails_leaves_a_stopped_row_that_says_why(home: Home, error: Exception, phase: str) -> None:
    loading = Loading()
    loading.fail(error)
    replica = home.replica(loading)
    with pytest.raises(type(error)):
        await replica.start()
    row = home.row()
    assert row.phase == phase
    assert row.stopped_at is not None
    await replica.beat()
    await replica.stop(0)
    assert home.row() == row


async def test_a_beat_writes_the_engines_account(home: Home) -> None:
    replica, engine = await home.ready(price_per_hour_usd=HOUR * 2)
    engine.books = Account(used_s=20.0, lost_s=4.0, idle_s=30.0, startup_s=10.0, steps=7, rows=50, wasted_rows=3, running=1)
    await replica.beat()
    row = home.row()
    numbers = (row.used_s, row.lost_s, row.idle_s, row.startup_s, row.steps, row.rows, row.wasted_rows)
    assert numbers == (20.0, 4.0, 30.0, 10.0, 7, 50, 3)
    assert (row.model, row.host, row.price_per_hour_usd) == (home.app.model.id, socket.gethostname(), HOUR * 2)
    assert row.cost_usd == pytest.approx(40.0)
    assert row.allocation_usd == pytest.approx(2 * (row.last_seen_at - row.started_at), abs=0.2)


async def test_a_new_price_is_charged_from_its_change_on(home: Home) -> None:
    replica, engine = await home.ready(price_per_hour_usd=HOUR)
    engine.books.used_s = 10.0
    replica.tune({"price_per_replica_hour_usd": HOUR * 3})
    engine.books.used_s = 14.0
    await replica.beat()
    assert home.row().cost_usd == pytest.approx(10 * 1 + 4 * 3)
    replica.tune({"price_per_replica_hour_usd": -1.0})
    assert replica.settings_error is not None
    engine.books.used_s = 15.0
    await replica.beat()
    assert home.row().cost_usd == pytest.approx(10 * 1 + 5 * 3)
    assert [tuning.price_per_replica_hour_usd for tuning in engine.tuned] == [HOUR, HOUR * 3, HOUR * 3]


async def test_replicas_on_one_host_share_its_cores(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    replica, engine = await home.ready()
    assert engine.threads == 4
    other = replace(home.row(), id="two", last_seen_at=time.time() + 60)
    home.ledger.put_replica(other)
    home.ledger.put_replica(replace(other, id="three", host="elsewhere"))
    await replica.beat()
    assert engine.threads == 2
    home.ledger.put_replica(replace(other, stopped_at=time.time()))
    await replica.beat()
    assert engine.threads == 4


async def admitted(engine: FakeEngine, stream: Stream) -> Stream | FrugalError:
    return engine.admit([stream])[0]


async def test_a_generation_gives_its_chunks_and_one_ending(home: Home) -> None:
    replica, engine = await home.ready()
    items = replica.generate(REQUEST, lambda stream: admitted(engine, stream))
    first = asyncio.ensure_future(anext(items))
    await engine.came.wait()
    engine.streams[0].put_text("Hello", 1)
    assert await first == Chunk("Hello", 1)
    engine.streams[0].end(finish())
    assert [item async for item in items] == [finish()]


async def test_leaving_early_cancels_the_row(home: Home) -> None:
    replica, engine = await home.ready()
    async with contextlib.aclosing(replica.generate(REQUEST, lambda stream: admitted(engine, stream))) as items:
        first = asyncio.ensure_future(anext(items))
        await engine.came.wait()
        engine.streams[0].put_text("Hello", 1)
        await first
        assert not engine.streams[0].cancelled
    assert engine.streams[0].cancelled


async def test_a_refused_admission_is_a_bad_ending(home: Home) -> None:
    replica, engine = await home.ready()
    engine.refusal = Overloaded("full; try again in 3 s", retry_after_s=3)
    items = [item async for item in replica.generate(REQUEST, lambda stream: admitted(engine, stream))]
    assert items == [Failed(engine.refusal)]


async def test_nothing_is_written_after_the_row_that_says_stopped(home: Home) -> None:
    """Not even by a beat that was under way, in its thread, when the replica was stopped."""
    replica, engine = await home.ready()
    entered, goes_on = threading.Event(), threading.Event()

    def wait_once() -> None:
        engine.looked_at = lambda: None
        entered.set()
        assert goes_on.wait(30)

    engine.looked_at = wait_once
    late = asyncio.create_task(replica.beat())
    await asyncio.to_thread(entered.wait, 30)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    stopping = asyncio.create_task(replica.stop(1.5))
    done, _ = await asyncio.wait([stopping], timeout=0.3)
    assert not done
    goes_on.set()
    await stopping
    row = home.row()
    assert (row.phase, row.stopped_at, engine.drained_s) == ("stopped", row.last_seen_at, 1.5)
    await replica.beat()
    assert home.row() == row


async def test_a_replica_whose_engine_is_gone_must_be_replaced(home: Home) -> None:
    replica, engine = await home.ready()
    replica.check()
    engine.close(0)
    with pytest.raises(RuntimeError, match="thread is gone"):
        replica.check()


async def test_what_passed_before_our_first_line_is_start_up_and_part_of_the_bill(tmp_path: pathlib.Path) -> None:
    database = Database(AppSettings(data_dir=str(tmp_path)).database)
    began = time.time() - 3600
    replica = ModelReplica(AppSettings(data_dir=str(tmp_path)), "early", load=Loading(), started_at=began)
    await replica.beat(stopped=True)
    (row,) = Ledger(database).replicas()
    database.close()
    assert row.started_at == began
    assert row.startup_s == pytest.approx(row.last_seen_at - began, abs=0.1)
    assert row.allocation_usd == pytest.approx(ModelTuning().price_per_replica_hour_usd, rel=0.01)


async def test_pieces_of_text_come_together_where_there_are_too_many_of_them(home: Home) -> None:
    replica, engine = await home.ready()
    replica.tune({"max_chunks_per_s": 0.001})  # the second piece would go after a quarter of an hour
    items = replica.generate(REQUEST, lambda stream: asyncio.sleep(0, engine.admit([stream])[0]))
    first = asyncio.ensure_future(anext(items))
    await engine.came.wait()
    (stream,) = engine.streams
    stream.put_text("The first goes at once,", 4)
    assert await first == Chunk("The first goes at once,", 4)
    rest = asyncio.ensure_future(_all(items))
    for word in (" the", " others", " together"):
        stream.put_text(word, 1)
        await asyncio.sleep(0)
    stream.end(finish())
    assert await rest == [Chunk(" the others together", 3), finish()]


async def _all(items: AsyncIterator[object]) -> list[object]:
    return [item async for item in items]
