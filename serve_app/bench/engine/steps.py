"""One step by itself: a prefill chunk by the form of the weights, and a decode step of the slots' runner against one of `generate`.

Prefill of one prompt of 800 tokens, the four in turn, all else equal in the first three, which run the model's own forward:

    fused      bitsandbytes' kernel alone, as plain transformers runs it
    unpacked   4-bit weights unpacked for this one chunk, then bf16 products         (linears.py, MIN_TOKENS)
    kept       with weights unpacked beforehand                                      (linears.py, keep)
    runner     the slots' runner as the configuration makes it

Decode with 32 rows of 256 tokens of context and more with every step, through scheduler, runner and the choice of the best token; for
`generate` the time between its tokens, without its prefill. Tests: tests/model/test_bench.py.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from serve_app.bench.engine.arms import Bench
from serve_app.bench.engine.workloads import prose_ids
from serve_app.model.choose import best
from serve_app.model.linears import is_packed, quick
from serve_app.model.measure import timed_generate
from serve_app.model.openmp import compute_apart
from serve_app.model.runner import Runner
from serve_app.model.scheduler import Limits, Scheduler, Sequence

CHUNK_TOKENS, ROWS, CONTEXT, NUM_STEPS = 800, 32, 256, 16


def run(
    bench: Bench,
    rounds: int,
    say: Callable[[str], None],
    chunk_tokens: int = CHUNK_TOKENS,
    rows: int = ROWS,
    context: int = CONTEXT,
    num_steps: int = NUM_STEPS,
) -> dict[str, Any]:
    """The document's part, medians over the rounds; a form that these weights do not have is missing from it.

    Raises:
        ModelLoadError: the slots do not fit into memory.
    """
    room = bench.loaded.max_positions
    chunk_tokens, context = min(chunk_tokens, room - 1), min(context, room - num_steps - 3)
    threads = bench.loaded.threads

    def told(name: str, seconds: float) -> None:
        say(f"steps, prefill {name}: {chunk_tokens / seconds:.0f} tokens/s")

    prefills = alternate(_prefills(bench, chunk_tokens), rounds, threads, told)
    decodes = alternate(
        _decodes(bench, rows, context, num_steps), rounds, threads, lambda name, s: say(f"steps, decode {name}: {s * 1000:.1f} ms")
    )
    return {
        "rounds": rounds,
        "prefill": {
            "chunk_tokens": chunk_tokens,
            "tokens_per_s": {name: chunk_tokens / statistics.median(times) for name, times in prefills.items()},
        },
        "decode": {
            "rows": rows,
            "context": context,
            "steps": num_steps,
            "step_s": {name: statistics.median(times) for name, times in decodes.items()},
        },
        "ratios": {
            **{f"{name}_vs_fused": ratio(prefills, "fused", name) for name in ("unpacked", "kept", "runner")},
            "decode_generate_vs_runner": ratio(decodes, "generate", "runner"),
        },
    }


def ratio(times: dict[str, list[float]], slow: str, quick: str) -> float | None:
    """How many times quicker the second is: the median of the rounds' ratios, null where a side is missing."""
    if slow not in times or quick not in times:
        return None
    return statistics.median(one / other for one, other in zip(times[slow], times[quick], strict=True))


def alternate(arms: dict[str, Callable[[], float]], rounds: int, threads: int, say: Callable[[str, float], None]) -> dict[str, list[float]]:
    """Seconds per round of each; all go once before, unmeasured, and in every other round the last one goes first."""
    times: dict[str, list[float]] = {name: [] for name in arms}

    def work() -> None:
        torch.set_num_threads(threads)  # see ThreadedEngine
        for number in range(rounds + 1):
            for name in list(arms)[:: -1 if number % 2 else 1]:
                seconds = arms[name]()
                if number:
                    times[name].append(seconds)
                    say(name, seconds)

    compute_apart(work)
    return times


def _prefills(bench: Bench, num_tokens: int) -> dict[str, Callable[[], float]]:
    loaded, model = bench.loaded, bench.loaded.model
    ids = torch.tensor([prose_ids(loaded.tokenizer, 0, num_tokens)], device=loaded.device)
    forms: dict[str, Callable[[], AbstractContextManager[None]]] = {"own": contextlib.nullcontext}
    if any(is_packed(layer) for layer in model.modules()):
        forms = {"fused": contextlib.nullcontext, "unpacked": lambda: quick(model, False), "kept": lambda: quick(model, True)}

    def forward(form: Callable[[], AbstractContextManager[None]]) -> float:
        with form(), torch.inference_mode():
            return _seconds(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1).logits)

    runner = bench.runner(1, num_tokens + 1)
    arms: dict[str, Callable[[], float]] = {name: lambda form=form: forward(form) for name, form in forms.items()}  # type: ignore[misc]
    return {**arms, "runner": lambda: _runner_prefill(runner, ids[0].tolist())}


def _runner_prefill(runner: Runner, ids: list[int]) -> float:
    scheduler = _scheduler(runner, len(ids))
    scheduler.add(Sequence(0, ids, 1, "interactive", 0.0))
    step, _ = scheduler.plan(0.0)
    with runner.attached():
        return _seconds(lambda: runner.run(step))


def _decodes(bench: Bench, rows: int, context: int, num_steps: int) -> dict[str, Callable[[], float]]:
    loaded = bench.loaded
    ids = prose_ids(loaded.tokenizer, 0, context)
    batch = torch.tensor([ids] * rows, device=loaded.device)
    runner = bench.runner(rows, context + num_steps + 3)

    def generate() -> float:
        return timed_generate(loaded.model, batch, loaded.pad_id, num_steps)[1]

    return {"generate": generate, "runner": lambda: _runner_decode(runner, ids, num_steps)}


def _runner_decode(runner: Runner, ids: list[int], num_steps: int) -> float:
    """Seconds per step. The rows have the same prompt, so that one is computed and the others copy it; that one is a token ahead."""
    scheduler = _scheduler(runner, len(ids))
    for number in range(runner.num_slots):
        scheduler.add(Sequence(number, ids, num_steps + 3, "interactive", 0.0))
    num_done, began_at = 0, 0.0
    with runner.attached():
        while num_done < num_steps:
            step, _ = scheduler.plan(0.0)
            if not step.chunks and not num_done:
                began_at = time.perf_counter()
            tokens = best(runner.run(step).float())
            scheduler.settle(step, [[token] for token in tokens], ())
            num_done += not step.chunks
        return (time.perf_counter() - began_at) / num_steps


def _scheduler(runner: Runner, num_tokens: int) -> Scheduler:
    """Of a run of its own: nothing is limited, and nothing is in its slots."""
    return Scheduler(runner.num_slots, runner.slot_tokens, Limits(num_tokens + runner.num_slots, num_tokens, runner.num_slots, 1.0))


def _seconds(forward: Callable[[], Tensor]) -> float:
    """Until the last logits are there: reading one waits for the device."""
    began_at = time.perf_counter()
    forward().flatten()[-1].item()
    return time.perf_counter() - began_at
