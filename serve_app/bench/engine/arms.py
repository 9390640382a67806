"""One arm of a workload, once: all its requests arrive together, and the time counts until the last one's end.

ITL is taken where the engine hands a token's text over, in its own thread, so that it says nothing about how quickly this process reads.
Every engine, and what makes its weights and its cache, computes in a thread that ends (see serve_app/model/openmp.py).
Tests: tests/engine/test_bench_engine.py, tests/model/test_bench.py.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from serve_app.bench.engine.options import Arm
from serve_app.bench.engine.rounds import Result
from serve_app.bench.engine.workloads import Workload
from serve_app.bench.figures import percentiles
from serve_app.bench.memory import PeakMemory
from serve_app.bench.plain_generate import summarise
from serve_app.errors import ContextLengthExceeded, FrugalError
from serve_app.logprobs import TokenLogprob
from serve_app.messages import Failed, Finish, Generate
from serve_app.metrics import Metrics
from serve_app.model.engine import Engine, Stream
from serve_app.model.inflight import SlotsEngine, keeps
from serve_app.model.kvcache import bytes_per_slot
from serve_app.model.loader import LoadedModel
from serve_app.model.openmp import compute_apart
from serve_app.model.prompts import encode
from serve_app.model.runner import Runner, dtype_of
from serve_app.model.static import StaticEngine
from serve_app.settings import ModelSettings, ModelTuning

ITL_METHOD = "between two texts as the engine's thread hands them over, shared among the tokens that the second one took"


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured: the weights, and the settings and the tuning of the configuration."""

    loaded: LoadedModel
    settings: ModelSettings
    tuning: ModelTuning

    def runner(self, num_slots: int, slot_tokens: int) -> Runner:
        """Slots for the engine, with the form of the weights that the configuration gives.

        Raises:
            ModelLoadError: they do not fit into the machine.
        """
        return compute_apart(lambda: self._runner(num_slots, slot_tokens))

    def _runner(self, num_slots: int, slot_tokens: int) -> Runner:
        torch.set_num_threads(self.loaded.threads)
        model = self.loaded.model
        each = bytes_per_slot(model.config.get_text_config(), slot_tokens, dtype_of(model), str(model.device))
        runner = Runner(model, num_slots, slot_tokens, keeps(model, self.settings, num_slots * each))
        runner.measure()  # as for a replica
        return runner


class TimedStream(Stream):
    """Remembers when its text was handed over: `emitted` are times of `perf_counter` and numbers of tokens."""

    def __init__(self, request: Generate) -> None:
        super().__init__(request)
        self.emitted: list[tuple[float, int]] = []

    def put_text(self, text: str, num_tokens: int, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """See Stream.put_text."""
        self.emitted.append((time.perf_counter(), num_tokens))
        super().put_text(text, num_tokens, logprobs)


def gaps(emitted: Sequence[tuple[float, int]]) -> Iterator[tuple[float, float]]:
    """Seconds from token to token, each with the time of its later end.

    A text that took several tokens (half a character says nothing yet) shares its gap among them; one that took none is the rest of a
    text that was held back.
    """
    told = [(at, num) for at, num in emitted if num]
    for (before, _), (after, num) in itertools.pairwise(told):
        for _ in range(num):
            yield (after - before) / num, after


def slot_tokens(loaded: LoadedModel, workload: Workload) -> int:
    """What the workload's longest request needs, prompt and answer.

    Raises:
        ContextLengthExceeded: more than the model's context, with what to change.
        BadRequest: the model takes no conversations.
    """
    limit = sys.maxsize // 32  # far from any; the real one is below, with a remedy that fits here
    need = max(len(encode(loaded.tokenizer, request, limit)) + request.sampling.max_tokens for request in workload.requests)
    room = min(loaded.card.max_context, loaded.max_positions)
    if need > room:
        raise ContextLengthExceeded(
            f"workload {workload.name} takes {need} tokens of context, and model.max_context is {room}; raise it, or lower --max-tokens"
        )
    return need


def measure(bench: Bench, arm: Arm, workload: Workload) -> tuple[Result, str]:
    """The figures, and how the memory was measured.

    Raises:
        FrugalError: a request was refused or failed.
    """
    requests = workload.sample if arm.kind == "one" else workload.requests
    with PeakMemory() as peak:
        result = _plain(bench.loaded, arm, requests) if arm.kind == "plain" else _engine(bench, arm, workload, requests)
    return replace(result, peak_rss_bytes=peak.bytes), peak.method


def _plain(loaded: LoadedModel, arm: Arm, requests: Sequence[Generate]) -> Result:
    texts = [request.messages[-1].content for request in requests]
    most = requests[0].sampling.max_tokens
    eos_ids = list(loaded.eos_ids)
    done = compute_apart(lambda: summarise(loaded.model, loaded.tokenizer, texts, arm.batch_size, most, eos_ids, loaded.threads))
    return _result(done.articles, done.seconds, done.prompt_tokens, done.completion_tokens)


def _engine(bench: Bench, arm: Arm, workload: Workload, requests: Sequence[Generate]) -> Result:
    tuning = bench.tuning.model_copy(update={"max_batch_size": arm.batch_size, "max_waiting": len(requests)})
    if arm.kind == "unguessed":
        tuning = tuning.model_copy(update={"prompt_lookup_tokens": 0})
    if arm.engine == "slots":
        runner = bench.runner(arm.batch_size, slot_tokens(bench.loaded, workload))
        engine: Engine = SlotsEngine(bench.loaded, tuning, Metrics(), runner=runner)
    else:
        engine = StaticEngine(bench.loaded, tuning, Metrics())
    try:
        return asyncio.run(_answers(engine, requests))
    finally:
        engine.close(0)


async def _answers(engine: Engine, requests: Sequence[Generate]) -> Result:
    streams = [TimedStream(request) for request in requests]
    started = time.perf_counter()
    admit(engine, streams)
    endings = await asyncio.gather(*(ending(stream) for stream in streams))
    seconds = time.perf_counter() - started
    account = engine.account()
    num_prompt = sum(finish.usage.prompt_tokens for finish in endings)
    num_new = sum(finish.usage.completion_tokens for finish in endings)
    itl = percentiles([gap for stream in streams for gap, _ in gaps(stream.emitted)])
    return replace(
        _result(len(endings), seconds, num_prompt, num_new),
        ttft_p50_s=statistics.median(finish.ttft_s for finish in endings),
        itl_p50_ms=_ms(itl.get(50)),
        itl_p95_ms=_ms(itl.get(95)),
        itl_p99_ms=_ms(itl.get(99)),
        wasted_row_share=account.wasted_rows / (account.rows + account.wasted_rows),
        cached_token_share=sum(finish.usage.cached_tokens for finish in endings) / num_prompt,
    )


def _result(num: int, seconds: float, num_prompt: int, num_new: int) -> Result:
    return Result(num, seconds, num / seconds, num_prompt, num_new, num_prompt / seconds, num_new / seconds)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def admit(engine: Engine, streams: Sequence[Stream]) -> None:
    """All of them as one group; FrugalError where one is refused."""
    for admitted in engine.admit(streams):
        if isinstance(admitted, FrugalError):
            raise admitted


async def ending(stream: Stream) -> Finish:
    """Read to the end; FrugalError where it is a bad one."""
    async for item in stream:
        if isinstance(item, Failed):
            raise item.error
        if isinstance(item, Finish):
            return item
    raise AssertionError("a stream always ends")
