"""The engine over transformers' continuous batching on real 4-bit weights, and how a replica comes to its engine."""

from __future__ import annotations

import asyncio
import pathlib
import time

import pytest

from serve_app.messages import Chunk, Finish
from serve_app.metrics import Metrics
from serve_app.model.continuous import TransformersEngine
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.paged import PagedBatching
from serve_app.model.replica import load_engine
from serve_app.model.static import StaticEngine
from serve_app.settings import AppSettings, ModelTuning
from tests.model import tiny
from tests.model.conftest import Embedded
from tests.model.test_loader import small, small_folder
from tests.model.test_slots import assert_writes_as_generate

pytestmark = pytest.mark.model


async def test_every_difference_from_generate_begins_where_two_tokens_are_as_good_as_equal(embedded: Embedded) -> None:
    loaded = embedded.loaded
    await assert_writes_as_generate(
        embedded, lambda: TransformersEngine(loaded, ModelTuning(max_batch_size=4), Metrics(), batching=PagedBatching(loaded, 200_000_000))
    )


@pytest.mark.parametrize(("name", "cls"), [("static", StaticEngine), ("slots", SlotsEngine), ("transformers", TransformersEngine)])
async def test_a_replica_gets_the_engine_of_its_settings(tmp_path: pathlib.Path, name: str, cls: type) -> None:
    settings = small(small_folder(tmp_path / "small"), engine=name, kv_cache_mb=4, quantization="none")
    make = load_engine(AppSettings(data_dir=str(tmp_path), model=settings), 1, lambda phase: None)
    engine = make(ModelTuning(), Metrics(), time.monotonic())
    stream = Stream(tiny.ask("w1 w2", max_tokens=4, ignore_eos=True))
    assert engine.admit([stream]) == [stream]
    items = [item async for item in stream]
    await asyncio.to_thread(engine.close, 0)
    assert isinstance(engine, cls)
    assert isinstance(items[0], Chunk)
    assert isinstance(items[-1], Finish)
    assert items[-1].usage.completion_tokens == 4
