"""All engines on CUDA: the contract over the tiny fp32 model, and real 4-bit weights against `generate`."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from serve_app.messages import Generate, Message, Sampling
from serve_app.metrics import Metrics
from serve_app.model.continuous import TransformersEngine
from serve_app.model.engine import Stream
from serve_app.model.inflight import SlotsEngine, slots_of
from serve_app.model.loader import LoadedModel
from serve_app.model.paged import PagedBatching
from serve_app.settings import ModelSettings, ModelTuning
from tests.engine.contract_engine import EngineContract
from tests.engine.engine_bench import Bench
from tests.engine.test_engine_contract import MAKERS
from tests.model import tiny
from tests.model.conftest import Embedded
from tests.model.test_slots import NUM_TOKENS, assert_writes_as_generate, read

DEVICE = "cuda:0"
KV_BYTES = 200_000_000

Make = Callable[[LoadedModel], SlotsEngine | TransformersEngine]


@pytest_asyncio.fixture(params=sorted(MAKERS))
async def bench(request: Any) -> AsyncIterator[Bench]:
    made = Bench(MAKERS[request.param], copy.deepcopy(tiny.network()).to(DEVICE), DEVICE)
    yield made
    await asyncio.to_thread(made.close)


class TestEngines(EngineContract):
    """On CUDA. fp32, so without flash attention and CUDA graphs."""


def slots(loaded: LoadedModel) -> SlotsEngine:
    runner = slots_of(loaded, ModelSettings(kv_cache_mb=KV_BYTES // 1_000_000))
    return SlotsEngine(loaded, ModelTuning(max_batch_size=4), Metrics(), runner=runner)


def transformers(loaded: LoadedModel) -> TransformersEngine:
    """With flash attention and CUDA graphs, where a package of it is installed."""
    return TransformersEngine(loaded, ModelTuning(max_batch_size=4), Metrics(), batching=PagedBatching(loaded, KV_BYTES))


@pytest.mark.parametrize("make", [slots, transformers])
async def test_real_weights_write_what_generate_writes_but_where_two_tokens_are_as_good_as_equal(embedded: Embedded, make: Make) -> None:
    await assert_writes_as_generate(embedded, lambda: make(embedded.loaded))


@pytest.mark.parametrize("make", [slots, transformers])
async def test_a_recorded_step_repeats_a_seed_and_heeds_the_filters(embedded: Embedded, make: Make) -> None:
    """One request at a time, so that sums of bf16 come in the same order."""
    loaded = embedded.loaded
    engine = make(loaded)

    async def text(**sampling: Any) -> str:
        stream = Stream(Generate("r", loaded.card.id, Sampling(**{"max_tokens": NUM_TOKENS, "ignore_eos": True, **sampling}), (HELLO,)))
        assert engine.admit([stream]) == [stream]
        return await read(stream)

    greedy = await text()
    drawn = [await text(temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    narrow = await text(temperature=1.5, top_k=1)
    penalised = await text(repetition_penalty=2.0)
    await asyncio.to_thread(engine.close, 0)
    assert drawn[0] == drawn[1] != drawn[2]
    assert narrow == greedy != penalised


HELLO = Message("user", "Tell me about the sea.")
