"""The engine benchmark's document for people. Pure. Tests: tests/engine/test_bench_engine.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HEAD = (
    f"{'arm':<12} {'requests/s':>10} {'articles/min':>12} {'prompt tok/s':>12} {'output tok/s':>12} {'TTFT p50':>9} "
    f"{'ITL p50':>8} {'p95':>7} {'p99':>7} {'wasted':>6} {'cached':>6} {'peak MB':>7} {'rounds':>6}"
)
WORDS = {
    "slots_vs_static": "slots against static batches",
    "slots_vs_unguessed": "slots with prompt lookup against without",
    "slots_vs_one": "slots against one at a time",
    "static_vs_one": "static batches against one at a time",
    "static_vs_plain": "static batches against plain generate",
    "unpacked_vs_fused": "prefill unpacked against fused",
    "kept_vs_fused": "kept against fused",
    "runner_vs_fused": "the slots' runner against fused",
    "decode_generate_vs_runner": "a decode step of generate against the runner's",
    "itl_p50_whole_vs_chunked": "ITL of whole prompts against chunks at p50",
    "itl_p95_whole_vs_chunked": "p95",
    "itl_p99_whole_vs_chunked": "p99",
}


def table(document: dict[str, Any]) -> str:
    """A block per workload, its ratios below, and the conditions."""
    blocks = [list(_workload(name, part)) for name, part in document["workloads"].items()]
    blocks += [list(told(document[name])) for name, told in (("steps", _steps), ("interference", _interference)) if name in document]
    ratios = [_ratios(found) for found in document["ratios"].values()]
    lines = [line for block, last in zip(blocks, ratios, strict=True) for line in (*block, last, "")]
    return "\n".join([*lines, _conditions(document)])


def _workload(name: str, part: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: {part['requests']} requests, at most {part['max_tokens']} new tokens each, {part['priority']}"
    yield HEAD
    for arm in part["arms"]:
        yield (
            f"{_label(arm):<12} {arm['requests_per_s']:>10.2f} {_number(arm.get('articles_per_min'), 1):>12} "
            f"{arm['prompt_tokens_per_s']:>12.0f} "
            f"{arm['completion_tokens_per_s']:>12.1f} {_number(arm['ttft_p50_s'], 2, ' s'):>9} {_number(arm['itl_p50_ms'], 0, ' ms'):>8} "
            f"{_number(arm['itl_p95_ms'], 0):>7} {_number(arm['itl_p99_ms'], 0):>7} {_percent(arm['wasted_row_share']):>6} "
            f"{_percent(arm['cached_token_share']):>6} {arm['peak_rss_bytes'] / 1e6:>7.0f} {arm['rounds']:>6}"
        )
    one = next((arm for arm in part["arms"] if arm["arm"] == "one"), None)
    if one is not None:
        yield f"one ran on every {part['one_runs_every']}th request, {one['requests']:.0f} in all; its rate is of these"
    for skipped, why in part["skipped"].items():
        yield f"{skipped} was skipped: {why}"
    if len({arm["rounds"] for arm in part["arms"]}) > 1:
        yield "after the first round, only the best size of each engine ran again"


def _label(arm: dict[str, Any]) -> str:
    return f"plain-{arm['batch_size']}" if arm["arm"] == "plain" else str(arm["arm"])


def _steps(part: dict[str, Any]) -> Iterator[str]:
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in part["prefill"]["tokens_per_s"].items())
    yield f"steps: prefill of {part['prefill']['chunk_tokens']} tokens, tokens/s: {rates}"
    times = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in part["decode"]["step_s"].items())
    yield f"decode step of {part['decode']['rows']} rows at {part['decode']['context']} tokens of context, ms: {times}"


def _interference(part: dict[str, Any]) -> Iterator[str]:
    yield f"interference: {part['streams']} streams, a prompt every {part['every_s']:g} s, for {part['duration_s']:g} s"
    for name in ("chunked", "whole"):
        found = part[name]
        gaps = ", ".join(f"{at} {_number(found[f'itl_{at}_ms'], 0, ' ms')}" for at in ("p50", "p95", "p99", "max"))
        yield (
            f"{name:>8}: ITL {gaps}; {found['stream_tokens_per_s']:.0f} tokens/s of the streams; {found['prompts_finished']:.0f} of "
            f"{found['prompts']:.0f} prompts answered, TTFT p50 {_number(found['prompt_ttft_p50_s'], 2, ' s')}"
        )


def _ratios(found: dict[str, Any]) -> str:
    told = [f"{words} {found[name]:.2f}" for name, words in WORDS.items() if found.get(name) is not None]
    best = [f"{kind} {found[f'best_{kind}']}" for kind in ("static", "slots") if found.get(f"best_{kind}")]
    return "; ".join(part for part in (", ".join(told), f"best sizes: {', '.join(best)}" if best else "") if part) or "no ratios"


def _conditions(document: dict[str, Any]) -> str:
    found, model = document["conditions"], document["model"]
    return (
        f"on {found['cpu']}, {found['cores']} cores, load {found['load_average']}; {model['id']} ({model['quantization']}, "
        f"{model['device']}), Python {found['python']}, torch {found['torch']}, transformers {found['transformers']}, "
        f"commit {found['commit']}"
    )


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
