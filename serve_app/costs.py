"""Pure: what was answered, what the replicas did, and what that cost; rows in, report out. Nothing here reads a clock or a store.

Two bases, always named. Usage: the compute-seconds of the work done. Allocation: every second a replica existed, idle and start-up
included; that is the bill. Seconds avoided are compute-seconds, not dollars: a dollar is saved only where a replica was given back.
Tests: tests/fast/test_costs.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from serve_app.histograms import Observed, observed
from serve_app.messages import REUSED
from serve_app.metrics import Snapshot
from serve_app.store.answers import Group
from serve_app.store.ledger import LedgerRow, ReplicaRow

T = TypeVar("T")

AGES = "frugal_cache_age_seconds"
MAX_REPLICAS = 50  # shown one by one, the latest; the totals count all
STARTED = "since the present replicas started"


def request_cost_usd(compute_s: float, price_per_hour_usd: float) -> float:
    """Compute-seconds on one replica at its price per hour, in dollars."""
    return compute_s * price_per_hour_usd / 3600


def report(
    rows: Sequence[LedgerRow],
    replicas: Sequence[ReplicaRow],
    snapshots: Iterable[Snapshot],
    now: float,
    stored: Sequence[Group] | None = None,
) -> dict[str, Any]:
    """The report of GET /v1/report: sections of plain numbers, seconds and dollars, with the basis in the name.

    `stored`: the stored answers by model and feed, None where that is not known.
    """
    snapshots = list(snapshots)
    time = replica_time(replicas)
    total = _total(rows)
    return {
        "object": "report",
        "since": min([row.hour for row in rows] + [int(replica.started_at) for replica in replicas], default=None),
        "until": now,
        "requests": {**_requests(rows), **_cached(observed(snapshots, AGES)[()], stored)},
        "tokens": {"prompt": total.prompt_tokens, "completion": total.completion_tokens},
        "latency": {
            "mean_s": _per(total.latency_s, total.requests),
            "by_outcome": _latency(rows, snapshots),
            "note": f"means over all time; quantiles {STARTED}",
        },
        "cache": _cache(snapshots),
        "batching": _batching(replicas, snapshots),
        "compute": {
            "spent_s": time["used_s"],
            "attributed_s": total.compute_s,
            "lost_s": sum(replica.lost_s for replica in replicas),
            "avoided_by_cache_s": total.avoided_s,
            "avoided_by_batching_s": total.alone_s - total.compute_s,
            "one_at_a_time_s": total.alone_s,
        },
        "replicas": {"number": len(replicas), "total": time, "each": [_replica(replica) for replica in replicas[-MAX_REPLICAS:]]},
        "cost": _cost(total, replicas),
        "by_feed": {feed: section for feed, section in _by("feed", "feed_id", rows, snapshots, stored).items() if feed},
        "by_model": _by("model", "model", rows, snapshots, stored),
    }


def replica_time(replicas: Iterable[ReplicaRow]) -> dict[str, float]:
    """Seconds: `replica_s` from the actors' start to their stop (or last sign of life); `startup_s`, `used_s` and `idle_s` each measured
    on its own inside the replica; `unaccounted_s` is what the three leave over."""
    each = [_replica(replica) for replica in replicas]
    names = ("replica_s", "used_s", "idle_s", "startup_s", "unaccounted_s")
    return {name: sum(replica[name] for replica in each) for name in names}


def _by(
    label: str, name: str, rows: Sequence[LedgerRow], snapshots: Sequence[Snapshot], stored: Sequence[Group] | None
) -> dict[str, dict[str, Any]]:
    """A section for each value of `name`: of what was asked, and of what is stored without having been asked for since the books began."""
    asked, ages = _grouped(rows, name), observed(snapshots, AGES, label)
    held = None if stored is None else _grouped(stored, name)
    return {
        value: {**_requests(asked.get(value, ())), **_cached(ages[value,], None if held is None else held.get(value, ()))}
        for value in dict.fromkeys([*asked, *(held or ())])
    }


def _cached(ages: Observed, stored: Sequence[Group] | None) -> dict[str, Any]:
    """Of the stored answers: how old they were when they were served, and how many there are now."""
    held = None if stored is None else {name: sum(getattr(group, name) for group in stored) for name in ("entries", "size_bytes")}
    return {"age": {"mean_s": ages.mean, **ages.quantiles()}, "stored": held or {"entries": None, "size_bytes": None}}


def _cache(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """What the replicas of the cache did with the store that they share, and what each has in its own memory, added up."""
    return {
        "evictions": _sum(snapshots, "frugal_cache_evictions_total"),
        "errors": _sum(snapshots, "frugal_cache_errors_total"),
        "memory": {"entries": _sum(snapshots, "frugal_cache_memory_entries"), "size_bytes": _sum(snapshots, "frugal_cache_memory_bytes")},
        "note": f"evictions, errors and ages {STARTED}; entries and bytes of this moment, give or take half a minute",
    }


def _requests(rows: Sequence[LedgerRow]) -> dict[str, Any]:
    by_outcome, by_ending = defaultdict(int), defaultdict(int)  # type: ignore[var-annotated]
    tokens_avoided = 0
    for row in rows:
        if row.requests:
            by_outcome[row.outcome] += row.requests
            by_ending[row.ending] += row.requests
        if row.outcome in REUSED:
            tokens_avoided += row.completion_tokens
    total = sum(by_outcome.values())
    return {
        "total": total,
        "by_outcome": {outcome: count for outcome, count in by_outcome.items() if count},
        "by_ending": dict(by_ending),
        "hit_ratio": _per(sum(by_outcome[outcome] for outcome in REUSED), total - by_outcome["refused"]),
        "token_hit_ratio": _per(tokens_avoided, sum(row.completion_tokens for row in rows)),
        "compute_s": sum(row.compute_s for row in rows),
        "avoided_s": sum(row.avoided_s for row in rows),
        "cost_usd": sum(row.cost_usd for row in rows),
    }


def _latency(rows: Sequence[LedgerRow], snapshots: Sequence[Snapshot]) -> dict[str, dict[str, float | None]]:
    result: dict[str, dict[str, float | None]] = {}
    latencies = observed(snapshots, "frugal_cache_answer_seconds", "outcome")
    for outcome, of_outcome in _grouped((row for row in rows if row.outcome != "refused"), "outcome").items():
        total = _total(of_outcome)
        result[outcome] = {"mean_s": _per(total.latency_s, total.requests), **latencies[outcome,].quantiles()}
    return result


def _batching(replicas: Sequence[ReplicaRow], snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    rows, wasted = sum(replica.rows for replica in replicas), sum(replica.wasted_rows for replica in replicas)
    buckets = observed(snapshots, "frugal_engine_batch_size")[()].buckets
    counts, below = {}, 0.0
    for bound in sorted(buckets):
        if buckets[bound] > below:
            counts["more" if bound == float("inf") else f"<={bound:g}"] = int(buckets[bound] - below)
        below = buckets[bound]
    return {
        "rows_per_step": _per(rows, sum(replica.steps for replica in replicas)),
        "wasted_row_share": _per(wasted, rows + wasted),
        "batch_sizes": counts,
        "note": "rows over all time; batch sizes since the present Model replicas started",
    }


def _replica(replica: ReplicaRow) -> dict[str, Any]:
    end = replica.stopped_at if replica.stopped_at is not None else replica.last_seen_at
    lived = end - replica.started_at
    return {
        "id": replica.id,
        "model": replica.model,
        "host": replica.host,
        "phase": replica.phase,
        "started_at": replica.started_at,
        "stopped_at": replica.stopped_at,
        "last_seen_at": replica.last_seen_at,
        "replica_s": lived,
        "used_s": replica.used_s,
        "idle_s": replica.idle_s,
        "startup_s": replica.startup_s,
        "unaccounted_s": lived - replica.used_s - replica.idle_s - replica.startup_s,
        "price_per_hour_usd": replica.price_per_hour_usd,
    }


def _cost(total: LedgerRow, replicas: Sequence[ReplicaRow]) -> dict[str, Any]:
    allocation = sum(replica.allocation_usd for replica in replicas)
    usage = sum(replica.cost_usd for replica in replicas)
    generated = total.completion_tokens
    return {
        "usage_usd": usage,
        "allocation_usd": allocation,
        "attributed_usd": total.cost_usd,
        "utilisation": _per(usage, allocation),
        "usage_usd_per_1k_requests": _per(usage * 1000, total.requests),
        "allocation_usd_per_1k_requests": _per(allocation * 1000, total.requests),
        "usage_usd_per_1m_completion_tokens": _per(usage * 1_000_000, generated),
        "allocation_usd_per_1m_completion_tokens": _per(allocation * 1_000_000, generated),
        "price_per_replica_hour_usd": replicas[-1].price_per_hour_usd if replicas else None,
        "note": "dollars are saved only where a replica was given back; until then caching and batching avoid compute-seconds",
    }


def _sum(snapshots: Iterable[Snapshot], name: str) -> int:
    return int(sum(sample.value for snapshot in snapshots for sample in dict(snapshot.families).get(name, ())))


def _grouped(rows: Iterable[T], name: str) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        groups[getattr(row, name)].append(row)
    return groups


def _total(rows: Iterable[LedgerRow]) -> LedgerRow:
    total = LedgerRow(0, "", "", "", "")
    for row in rows:
        total.add(row)
    return total


def _per(value: float, count: float) -> float | None:
    return value / count if count else None
