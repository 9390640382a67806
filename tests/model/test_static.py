"""The static engine on the embedded weights: groups, refusals, cancelling, and time that adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from serve_app.errors import ContextLengthExceeded
from serve_app.messages import Chunk, Failed, Finish, Generate, Message, Sampling
from serve_app.metrics import Metrics
from serve_app.model.engine import Stream
from serve_app.model.static import StaticEngine
from serve_app.settings import ModelTuning
from tests.model.conftest import Embedded

pytestmark = pytest.mark.model

QUESTIONS = ("Name a colour.", "What is a river?", "Write one line about the sea.", "Say hello.", "Why is the sky blue?", "Count to five.")


@pytest.fixture(scope="module")
def engine(embedded: Embedded) -> Iterator[StaticEngine]:
    made = StaticEngine(embedded.loaded, ModelTuning(max_batch_size=8), Metrics())
    yield made
    made.close(0)


def ask(content: str, max_tokens: int = 12, **sampling: float | int | bool | tuple[str, ...] | None) -> Generate:
    return Generate("r", "smollm2", Sampling(max_tokens=max_tokens, **sampling), messages=(Message("user", content),))  # type: ignore[arg-type]


async def read(stream: Stream) -> list[Chunk | Finish | Failed]:
    async with asyncio.timeout(120):
        return [item async for item in stream]


async def test_a_group_with_an_over_long_prompt_and_a_leaver_ends_row_by_row(embedded: Embedded) -> None:
    engine = StaticEngine(embedded.loaded, ModelTuning(max_batch_size=8), Metrics())
    streams = [Stream(ask(question)) for question in QUESTIONS]
    leaver, too_long = Stream(ask("Tell a long story.", max_tokens=200)), Stream(ask("word " * 3000))
    results = engine.admit([*streams, leaver, too_long])
    assert isinstance(results[-1], ContextLengthExceeded)
    assert results[:-1] == [*streams, leaver]
    assert isinstance(await anext(leaver), Chunk)
    leaver.cancel()
    endings = [(await read(stream))[-1] for stream in (*streams, leaver)]
    assert all(isinstance(ending, Finish) for ending in endings)
    finishes = [ending for ending in endings if isinstance(ending, Finish)]
    assert finishes[-1].reason == "cancelled"
    assert finishes[-1].usage.completion_tokens < 20
    assert {finish.reason for finish in finishes[:-1]} <= {"stop", "length"}
    await asyncio.to_thread(engine.close, 30)
    assert sum(finish.compute_s for finish in finishes) == pytest.approx(engine.account().used_s, rel=0.01)


async def test_a_small_model_says_something_sensible(engine: StaticEngine) -> None:
    stream = Stream(ask("What is the capital of France? Answer in one word.", max_tokens=16))
    engine.admit([stream])
    items = await read(stream)
    assert "Paris" in "".join(item.text for item in items if isinstance(item, Chunk))


async def test_a_stop_string_is_cut_from_the_text(engine: StaticEngine) -> None:
    stream = Stream(ask("What is the capital of France? Answer in one word.", max_tokens=30, stop=("aris",)))
    engine.admit([stream])
    items = await read(stream)
    text = "".join(item.text for item in items if isinstance(item, Chunk))
    assert text.endswith("P")
    assert isinstance(items[-1], Finish)
    assert items[-1].reason == "stop"
