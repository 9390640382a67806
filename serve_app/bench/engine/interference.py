"""What a long prompt costs those who are reading: 16 streams run, and every second a prompt of 500 tokens arrives, whoever waits.

    chunked   as configured: a prompt comes in beside the streams in chunks whose size the engine finds (serve_app/model/pace.py)
    whole     chunking off: a prompt is one step, however long that takes

The two alternate. A stream that has all its tokens is followed by the next one, so that there are always 16; prompts want 8 tokens each.
Gaps count from the first arrival on. Tests: tests/engine/test_bench_engine.py, tests/model/test_bench.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from serve_app.bench import prompts
from serve_app.bench.engine.arms import Bench, TimedStream, admit, ending, gaps
from serve_app.bench.engine.rounds import median
from serve_app.bench.engine.workloads import prose_ids
from serve_app.bench.figures import PERCENTS, percentiles
from serve_app.bench.load import WALL
from serve_app.messages import Failed, Finish, Generate, Sampling
from serve_app.metrics import Metrics
from serve_app.model.engine import Engine, Stream
from serve_app.model.inflight import SlotsEngine
from serve_app.model.loader import LoadedModel
from serve_app.model.pace import MAX_CHUNK
from serve_app.settings import ModelTuning

STREAMS, PROMPT_TOKENS, NEW_TOKENS, EVERY_S = 16, 500, 8, 1.0
STREAM_TOKENS = 512
ROWS = 2 * STREAMS  # as many prompts as streams may run at once
MAX_WAITING = 1_000_000  # nobody is refused: the loop is open
NEVER_LATE_MS = 1e9  # a target for the time between two tokens that holds no prompt back

Figures = dict[str, float | int | None]


def run(bench: Bench, rounds: int, duration_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The document's part, medians over the rounds.

    Raises:
        FrugalError: the slots do not fit into memory, or a request was refused or failed.
    """
    found: dict[str, list[Figures]] = {"chunked": [], "whole": []}
    for number in range(rounds):
        for name in list(found)[:: -1 if number % 2 else 1]:
            figures = _measure(bench, name, duration_s)
            found[name].append(figures)
            say(f"interference, round {number + 1} of {rounds}, {name}: ITL p99 {figures['itl_p99_ms'] or 0:.0f} ms")
    return {
        "rounds": rounds,
        "duration_s": duration_s,
        "streams": STREAMS,
        "every_s": EVERY_S,
        **{name: {figure: median([each[figure] for each in runs]) for figure in runs[0]} for name, runs in found.items()},
        "ratios": {f"itl_p{percent}_whole_vs_chunked": _ratio(found, f"itl_p{percent}_ms") for percent in PERCENTS},
    }


def whole(tuning: ModelTuning, slot_tokens: int) -> tuple[ModelTuning, int]:
    """The tuning and the longest chunk with which any prompt of a slot is one step, whoever waits."""
    return tuning.model_copy(update={"target_itl_ms": NEVER_LATE_MS}), slot_tokens


def _ratio(found: dict[str, list[Figures]], figure: str) -> float | int | None:
    pairs = [(one[figure], other[figure]) for one, other in zip(found["whole"], found["chunked"], strict=True)]
    return median([one / other for one, other in pairs if one and other])


def _measure(bench: Bench, name: str, duration_s: float) -> Figures:
    slot_tokens = min(bench.loaded.card.max_context, bench.loaded.max_positions, 2 * STREAM_TOKENS)
    tuning = bench.tuning.model_copy(update={"max_batch_size": ROWS, "max_waiting": MAX_WAITING})
    tuning, longest = whole(tuning, slot_tokens) if name == "whole" else (tuning, MAX_CHUNK)
    engine = SlotsEngine(bench.loaded, tuning, Metrics(), runner=bench.runner(ROWS, slot_tokens), chunk_tokens=longest)
    try:
        return asyncio.run(_Load(bench.loaded, engine, slot_tokens).run(duration_s))
    except BaseExceptionGroup as group:  # one task of several has failed
        raise group.exceptions[0] from None
    finally:
        engine.close(0)


class _Load:
    """The streams and the arrivals of one engine, once."""

    def __init__(self, loaded: LoadedModel, engine: Engine, slot_tokens: int) -> None:
        self._model, self._tokenizer = loaded.card.id, loaded.tokenizer
        self._engine = engine
        self._stream_tokens = min(STREAM_TOKENS, slot_tokens // 2)
        self._prompt_tokens = min(PROMPT_TOKENS, slot_tokens - NEW_TOKENS)
        self._streams: list[TimedStream] = []
        self._arrived: list[Finish] = []
        self._over = False

    async def run(self, duration_s: float) -> Figures:
        """Both sides for so long; what is left then is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            streams = [self._stream() for _ in range(STREAMS)]
            admit(self._engine, streams)
            begun = [asyncio.Event() for _ in streams]
            for stream, event in zip(streams, begun, strict=True):
                tasks.create_task(self._read(stream, event))
            for event in begun:
                await event.wait()
            began_at = WALL.now()
            arrivals = await self._arrive(tasks, began_at, duration_s)
            ended_at, self._over = WALL.now(), True
            for each in (*self._streams, *arrivals):
                each.cancel()
        return self._figures(began_at, ended_at, len(arrivals))

    async def _read(self, stream: TimedStream, begun: asyncio.Event) -> None:
        """One stream, and those that follow it."""
        while True:
            async for item in stream:
                begun.set()
                if isinstance(item, Failed):
                    raise item.error
            if self._over:
                return
            stream = self._stream()
            admit(self._engine, [stream])

    async def _arrive(self, tasks: asyncio.TaskGroup, began_at: float, duration_s: float) -> list[Stream]:
        arrivals: list[Stream] = []
        while (planned := EVERY_S * len(arrivals)) < duration_s:
            await WALL.sleep_until(began_at + planned)
            stream = Stream(self._prompt(len(arrivals)))
            admit(self._engine, [stream])
            tasks.create_task(self._note(stream))
            arrivals.append(stream)
        await WALL.sleep_until(began_at + duration_s)
        return arrivals

    async def _note(self, stream: Stream) -> None:
        self._arrived.append(await ending(stream))

    def _stream(self) -> TimedStream:
        number, most = len(self._streams), self._stream_tokens
        sampling = Sampling(max_tokens=most, min_tokens=most, ignore_eos=True)
        stream = TimedStream(Generate(f"stream-{number}", self._model, sampling, prompt=prompts.short(number)))
        self._streams.append(stream)
        return stream

    def _prompt(self, number: int) -> Generate:
        text = self._tokenizer.decode(prose_ids(self._tokenizer, number, self._prompt_tokens))
        return Generate(f"prompt-{number}", self._model, Sampling(max_tokens=NEW_TOKENS, ignore_eos=True), prompt=text)

    def _figures(self, began_at: float, ended_at: float, num_arrivals: int) -> Figures:
        found = [gap for stream in self._streams for gap, at in gaps(stream.emitted) if began_at <= at <= ended_at]
        finished = [finish for finish in self._arrived if finish.reason != "cancelled"]
        itl, ttft = percentiles(found), percentiles([finish.ttft_s for finish in finished])
        return {
            **{f"itl_p{percent}_ms": itl[percent] * 1000 if itl else None for percent in PERCENTS},
            "itl_max_ms": max(found, default=0.0) * 1000,
            "stream_tokens_per_s": len(found) / (ended_at - began_at),
            "prompts": num_arrivals,
            "prompts_finished": len(finished),
            "prompt_tokens": median([finish.usage.prompt_tokens for finish in self._arrived]),
            **{f"prompt_ttft_p{percent}_s": ttft.get(percent) for percent in (50, 95)},
        }
