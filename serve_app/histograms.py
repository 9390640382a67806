"""Pure: what the histograms of many replicas say together. Tests: tests/fast/test_histograms.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.metrics import Snapshot

QUANTILES = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99}


@dataclass(slots=True)
class Observed:
    """`buckets`: upper bound -> cumulative count, with an infinite one. `total`: the sum of the values."""

    total: float = 0.0
    buckets: dict[float, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def mean(self) -> float | None:
        """None without observations."""
        count = self.buckets.get(float("inf"), 0.0)
        return self.total / count if count else None

    def quantiles(self) -> dict[str, float | None]:
        """Of a histogram of seconds."""
        return {name: quantile(self.buckets, share) for name, share in QUANTILES.items()}


def observed(snapshots: Iterable[Snapshot], name: str, *labels: str) -> defaultdict[tuple[str, ...], Observed]:
    """One histogram, added up over all replicas and over all labels but these, by their values."""
    groups: defaultdict[tuple[str, ...], Observed] = defaultdict(Observed)
    for snapshot in snapshots:
        for sample in dict(snapshot.families).get(name, ()):
            found = dict(sample.labels)
            group = groups[tuple(found[label] for label in labels)]
            if sample.name == f"{name}_bucket":
                group.buckets[float(found["le"])] += sample.value
            elif sample.name == f"{name}_sum":
                group.total += sample.value
    return groups


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which `share` of a histogram's observations lie, linear within its bucket, as Prometheus' histogram_quantile.

    `buckets`: upper bound -> cumulative count, with an infinite one. None without observations; the last finite bound beyond it.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if not total:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            return lower if bound == float("inf") else lower + (bound - lower) * ((rank - below) / inside if inside else 1.0)
        lower, below = bound, buckets[bound]
    return lower
