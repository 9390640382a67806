"""The same streams through the running server and straight into an engine of this process, in turn: what all around the engine costs.

Both arms get the same questions from the same clients (`closed_loop`), in turn (turns.py), and the engine gets the server's settings.
Which engine it is, `load_engine` decides as for a replica.
Tests: tests/fast/test_bench_paired.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from serve_app.api.openai import ChatRequest
from serve_app.bench.figures import figures, quotient
from serve_app.bench.load import WALL
from serve_app.bench.replies import Question
from serve_app.bench.samples import Reply, RequestFailed
from serve_app.bench.turns import Pair
from serve_app.config_file import CheckedConfig
from serve_app.errors import FrugalError
from serve_app.messages import Failed, Finish
from serve_app.metrics import Metrics
from serve_app.model.engine import Engine, Stream
from serve_app.model.openmp import compute_apart
from serve_app.model.replica import load_engine
from serve_app.resources import num_cores
from serve_app.settings import IngressSettings, ModelTuning, SamplingDefaults

TOLD = ("completed", "errors", "p50_ms", "ttft_p50_ms", "itl_p50_ms", "output_tokens_per_s", "wall_s")


@contextlib.contextmanager
def engine_of(config: CheckedConfig, say: Callable[[str], None]) -> Iterator[EngineSender]:
    """The configured engine, with the threads and the tuning that the server's only replica has.

    Raises:
        ModelLoadError: with what to change.
    """
    tuning, ingress = config.user_configs["Model"], config.user_configs["Ingress"]
    assert isinstance(tuning, ModelTuning)
    assert isinstance(ingress, IngressSettings)
    threads = config.app.model.threads
    num_threads = threads if isinstance(threads, int) else num_cores()
    make = compute_apart(lambda: load_engine(config.app, num_threads, lambda phase: say(f"engine: {phase}")))
    engine = make(tuning, Metrics(), time.monotonic())
    try:
        yield EngineSender(engine, ingress.sampling)
    finally:
        engine.close(0)


class EngineSender:
    """Sends questions to an engine as a replica does. Use it on one event loop."""

    def __init__(self, engine: Engine, defaults: SamplingDefaults, now: Callable[[], float] = WALL.now) -> None:
        self._engine = engine
        self._defaults = defaults
        self._now = now
        self._number = 0
        self._group: list[Stream] = []
        self._admitting: asyncio.Task[dict[Stream, Stream | FrugalError]] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the weights that answer."""
        return self._engine.card.fingerprint

    async def send(self, question: Question) -> Reply:
        """The reply to one question.

        Raises:
            RequestFailed: `engine_<name of the error>`.
        """
        self._number += 1
        ask = ChatRequest.model_validate_json(question.body).ask(f"bench-{self._number}", self._defaults)
        stream = Stream(ask.generate)
        try:
            if isinstance(refused := await self._admit(stream), FrugalError):
                raise RequestFailed(f"engine_{type(refused).__name__}")
            return await self._read(stream)
        finally:
            stream.cancel()

    async def _admit(self, stream: Stream) -> Stream | FrugalError:
        """In a group with all who ask in this turn of the loop, as @serve.batch makes groups: or a static batch of one would begin."""
        self._group.append(stream)
        if self._admitting is None:
            self._admitting = asyncio.create_task(self._admit_group())
        return (await self._admitting)[stream]

    async def _admit_group(self) -> dict[Stream, Stream | FrugalError]:
        await asyncio.sleep(0)
        group, self._group, self._admitting = self._group, [], None
        return dict(zip(group, await asyncio.to_thread(self._engine.admit, group), strict=True))

    async def _read(self, stream: Stream) -> Reply:
        text_at: list[float] = []
        async for item in stream:
            if isinstance(item, Failed):
                raise RequestFailed(f"engine_{type(item.error).__name__}")
            if isinstance(item, Finish):
                return Reply(item.usage.prompt_tokens, item.usage.completion_tokens, None, tuple(text_at))
            if item.text:
                text_at.append(self._now())
        raise AssertionError("a stream always ends")


def compare(pairs: Sequence[Pair]) -> dict[str, Any]:
    """For the JSON document: each round's figures, and the median of their ratios of output tokens/s (null without a whole round).

    Of each pair the first run is the server's, the second the engine's.
    """
    rounds: list[dict[str, Any]] = []
    for pair in pairs:
        server, engine = ({name: figures(run)[name] for name in TOLD} for run in (pair.first, pair.second))
        ratio = None if pair.interrupted else quotient(server["output_tokens_per_s"], engine["output_tokens_per_s"])
        rounds.append({"server": server, "engine": engine, "ratio": ratio})
    ratios = [ratio for each in rounds if (ratio := each["ratio"]) is not None]
    return {"rounds": rounds, "end_to_end_vs_engine": statistics.median(ratios) if ratios else None}
