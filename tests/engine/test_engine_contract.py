"""Every engine does what tests/engine/contract_engine.py says, on a tiny random model on the CPU."""

from __future__ import annotations

import asyncio
import copy
import typing
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from serve_app.metrics import Metrics
from serve_app.model.capabilities import ENGINES
from serve_app.model.continuous import TransformersEngine
from serve_app.model.inflight import SlotsEngine
from serve_app.model.loader import LoadedModel
from serve_app.model.paged import PagedBatching
from serve_app.model.runner import Runner
from serve_app.model.static import StaticEngine
from serve_app.settings import ModelSettings, ModelTuning
from tests.engine.contract_engine import EngineContract
from tests.engine.engine_bench import AnyEngine, Bench
from tests.model import tiny

pytestmark = pytest.mark.usefixtures("quick_gc")

MODEL = copy.deepcopy(tiny.network())  # engines change what it attends with; other tests use the original


def static(loaded: LoadedModel, tuning: ModelTuning) -> AnyEngine:
    return StaticEngine(loaded, tuning, Metrics())


def slots(loaded: LoadedModel, tuning: ModelTuning) -> AnyEngine:
    return SlotsEngine(loaded, tuning, Metrics(), runner=Runner(loaded.model, 8, 128))


def transformers(loaded: LoadedModel, tuning: ModelTuning) -> AnyEngine:
    return TransformersEngine(loaded, tuning, Metrics(), batching=PagedBatching(loaded, 1_000_000))


MAKERS = {"static": static, "slots": slots, "transformers": transformers}


@pytest_asyncio.fixture(params=sorted(MAKERS))
async def bench(request: Any) -> AsyncIterator[Bench]:
    made = Bench(MAKERS[request.param], MODEL)
    yield made
    await asyncio.to_thread(made.close)


class TestEngines(EngineContract):
    """On the CPU."""


def test_every_engine_that_can_be_configured_is_held_to_the_contract() -> None:
    assert set(MAKERS) == set(ENGINES) == set(typing.get_args(ModelSettings.model_fields["engine"].annotation))
