"""The document of a load test for people. Pure. Tests: tests/fast/test_bench_http.py, test_bench_cache.py."""

from __future__ import annotations

from typing import Any

HEAD = (
    f"{'workload':<9} {'load':>12} {'requests':>9} {'errors':>7} {'p50':>9} {'p95':>9} {'p99':>9} {'requests/s':>11} "
    f"{'output tok/s':>13} {'hits':>5} {'client CPU':>11}"
)


def table(document: dict[str, Any]) -> str:
    """A line per workload, what is to be said about it below, and the conditions."""
    runs = document.get("runs", [document])
    lines = [HEAD, *(_line(run) for run in runs)]
    for run in runs:
        lines += [f"{run['workload']}: {note}" for note in _notes(run)]
    return "\n".join([*lines, _conditions(document["conditions"])])


def cache_table(document: dict[str, Any]) -> str:
    """A line per arm, and below it what the cache is worth."""
    load = {"rate": None, "connections": document["connections"]}
    runs = [{"workload": arm, **load, **document[arm]} for arm in ("cached", "uncached")]
    rounds = ", ".join(_number(pair["gain"]) for pair in document["rounds"])
    reused = f"{_percent(document['hit_ratio'])} of the answers reused (at most {_percent(document['best_hit_ratio'])} were asked before)"
    gain = f"gain: {_number(document['gain'])} times the requests/s (by round, as it fills: {rounds or 'none'}); {reused}"
    return f"{table({'runs': runs, 'conditions': document['conditions']})}\n{gain}"


def _line(run: dict[str, Any]) -> str:
    load = f"{run['rate']:g}/s" if run["rate"] else f"{run['connections']} clients"
    return (
        f"{run['workload']:<9} {load:>12} {run['requests']:>9} {run['errors']:>7} {_ms(run['p50_ms']):>9} {_ms(run['p95_ms']):>9} "
        f"{_ms(run['p99_ms']):>9} {_number(run['requests_per_s']):>11} {_number(run['output_tokens_per_s']):>13} "
        f"{_percent(run['hit_ratio']):>5} {_percent(run['client_cpu_s'] / run['wall_s'] if run['wall_s'] else None):>11}"
    )


def _notes(run: dict[str, Any]) -> list[str]:
    notes = []
    for name, said in (("ttft", "first text"), ("itl", "between two texts"), ("tpot", "per further token")):
        if run[f"{name}_p50_ms"] is not None:
            notes.append(f"{said} p50 {_ms(run[f'{name}_p50_ms'])}, p95 {_ms(run[f'{name}_p95_ms'])}, p99 {_ms(run[f'{name}_p99_ms'])}")
    if run.get("rounds"):
        notes += [_round(number, pair) for number, pair in enumerate(run["rounds"], 1)]
        notes.append(f"end to end against the engine alone: {_percent(run['end_to_end_vs_engine'])} (median of the rounds)")
    if run["errors"]:
        notes.append("errors: " + ", ".join(f"{count} {kind}" for kind, count in run["errors_by_kind"].items()))
    if run["dropped"]:
        notes.append(f"{run['dropped']} arrivals found {run['connections']} requests in flight and were not sent; raise --connections")
    if run["cut_short"]:
        notes.append("the time was over before every request was sent; raise --duration")
    if run["interrupted"]:
        notes.append(f"interrupted; {run['unfinished']} requests had no answer yet")
    return notes


def _round(number: int, pair: dict[str, Any]) -> str:
    server, engine = (_number(pair[arm]["output_tokens_per_s"]) for arm in ("server", "engine"))
    return f"round {number}: server {server}, engine {engine} output tok/s, {_percent(pair['ratio'])}"


def _conditions(found: dict[str, Any]) -> str:
    server, model = found["server"], found["server"]["model"]
    return (
        f"on {found['cpu']}, {found['cores']} cores, load {found['load_average']}; Frugal Serve "
        f"{server['version']}{' ' + str(server['profile']) if 'profile' in server else ''}, {model['id']} ({model['quantization']}, "
        f"{model['device']}), Python {found['python']}, torch {found['torch']}, ray {found['ray']}, commit {found['commit']}"
    )


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.2f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
