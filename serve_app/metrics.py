"""Every metric in one table: name, kind, labels, buckets, one sentence; and the registry that each replica fills.

Ray does not see plain prometheus_client metrics of a replica, so each replica hands out a `snapshot` (plain data) and Ingress renders all
of them together with `render`, told apart by the labels `deployment` and `replica`. Tests: tests/fast/test_metrics.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

Kind = Literal["counter", "gauge", "histogram"]

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
AGE_S = (1, 3, 10, 30, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 259_200, 604_800, 2_592_000)  # up to 30 days
STEP_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10)
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Spec:
    """One row of the table."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = LATENCY_S


METRICS: dict[str, Spec] = {
    # Ingress
    "frugal_http_requests_total": Spec("counter", "HTTP requests by route template and status.", ("method", "route", "status")),
    "frugal_http_request_seconds": Spec("histogram", "From the request's head to the end of the reply's body.", ("route",)),
    # AnswerCache
    "frugal_cache_requests_total": Spec("counter", "Questions by how they were answered, or refused.", ("model", "feed", "outcome")),
    "frugal_cache_tokens_total": Spec("counter", "Completion tokens by how they were come by.", ("model", "feed", "outcome")),
    "frugal_cache_answer_seconds": Spec("histogram", "From the question to the answer's end.", ("outcome",)),
    "frugal_cache_age_seconds": Spec("histogram", "Age of the stored answers that were served.", ("model", "feed"), AGE_S),
    "frugal_cache_avoided_compute_seconds_total": Spec(
        "counter", "Compute-seconds of the answers that were not made again.", ("model", "feed")
    ),
    "frugal_cache_refreshes_total": Spec(
        "counter",
        "Answers made anew in the background while a stale one was served: done, failed, or refused for want of room.",
        ("result",),
    ),
    "frugal_cache_refusals_replayed_total": Spec(
        "counter", "Requests that met a remembered refusal, and cost the model nothing.", ("model",)
    ),
    "frugal_cache_in_flight": Spec("gauge", "Generations that callers share at this moment."),
    "frugal_cache_entries": Spec("gauge", "Stored answers."),
    "frugal_cache_bytes": Spec("gauge", "Size of the stored answers."),
    "frugal_cache_evictions_total": Spec("counter", "Stored answers dropped for their age or for room."),
    "frugal_cache_errors_total": Spec(
        "counter", "Store operations that failed, or were not tried because the store is down; a get counts as a miss.", ("operation",)
    ),
    "frugal_cache_store_up": Spec("gauge", "1 where the store of answers works, 0 where it is left alone for some seconds."),
    "frugal_cache_lookups_total": Spec("counter", "Lookups by where the answer was: memory, store or nowhere.", ("layer",)),
    "frugal_cache_memory_entries": Spec("gauge", "Answers in this replica's memory."),
    "frugal_cache_memory_bytes": Spec("gauge", "Size of the answers in this replica's memory."),
    "frugal_similar_lookups_total": Spec("counter", "Similarity lookups by result: hit, none, late, busy, error.", ("result",)),
    "frugal_similar_lookup_seconds": Spec("histogram", "Time of one similarity lookup."),
    "frugal_similar_stopped_total": Spec("counter", "Near questions that the gate stopped, by what differed.", ("reason",)),
    "frugal_similar_samples_total": Spec("counter", "Similar answers compared with a new one: right, wrong.", ("verdict",)),
    "frugal_similar_threshold": Spec("gauge", "Cosine similarity that a question must reach; above 1 the lookup has switched itself off."),
    "frugal_similar_entries": Spec("gauge", "Questions that this replica compares with."),
    # Model
    "frugal_engine_requests_total": Spec("counter", "Generations by their ending: stop, length, cancelled, error.", ("model", "ending")),
    "frugal_engine_prompt_tokens_total": Spec("counter", "Prompt tokens computed.", ("model",)),
    "frugal_engine_completion_tokens_total": Spec("counter", "Tokens generated.", ("model",)),
    "frugal_engine_guessed_tokens_total": Spec("counter", "Tokens guessed by prompt lookup: right, or wrong.", ("outcome",)),
    "frugal_engine_waiting": Spec("gauge", "Requests that wait for the engine."),
    "frugal_engine_running": Spec("gauge", "Rows that the engine is decoding."),
    "frugal_engine_max_live_rows": Spec("gauge", "Rows that may decode together now: max_batch_size, or fewer by target_itl_ms."),
    "frugal_engine_chunk_tokens": Spec("gauge", "Prompt tokens that the last step was allowed beside its decoding rows."),
    "frugal_engine_batch_size": Spec("histogram", "Rows per batch, counted once per batch.", (), ROWS),
    "frugal_engine_queue_seconds": Spec("histogram", "From arrival at the engine to the first step."),
    "frugal_engine_ttft_seconds": Spec("histogram", "From arrival at the engine to the first token."),
    "frugal_engine_step_seconds": Spec("histogram", "Time of one engine step.", ("phase",), STEP_S),
    "frugal_engine_rows_total": Spec("counter", "Rows computed over all steps: live, or wasted on a row that had ended.", ("kind",)),
    "frugal_engine_startup_seconds": Spec("gauge", "From the actor's start to the engine's first wait for work."),
    "frugal_engine_used_seconds_total": Spec("counter", "Engine loop time spent on steps."),
    "frugal_engine_idle_seconds_total": Spec("counter", "Engine loop time spent waiting for work."),
    # Feeds
    "frugal_feed_checks_total": Spec("counter", "Feed checks by result: new, unchanged, error.", ("result",)),
    "frugal_feed_check_seconds": Spec("histogram", "Time of one fetch and parse."),
    "frugal_articles": Spec("gauge", "Articles by state.", ("state",)),
    "frugal_summaries_total": Spec("counter", "Summaries asked for, by result: done, failed, retry.", ("result",)),
    "frugal_webhook_tries_total": Spec("counter", "Webhook messages sent, by what became of them: done, again, dead, gone.", ("result",)),
    "frugal_webhook_messages": Spec("gauge", "Webhook messages by state: pending, dead.", ("state",)),
    "frugal_daily_digests_total": Spec("counter", "Daily digests by result: done, empty, failed, retry.", ("result",)),
    "frugal_feeds_lease_held": Spec("gauge", "1 where this replica may write."),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a family: its full name, labels and value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one replica measured, as plain data: family name -> samples."""

    deployment: str
    replica: str
    families: tuple[tuple[str, tuple[Sample, ...]], ...]


class Metrics:
    """The metrics of one process. Names that are not in the table raise KeyError."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        self._children: dict[tuple[object, ...], Counter | Gauge | Histogram] = {}  # found here in 0.8 µs, in the library in 2.1
        self._making = threading.Lock()  # the event loop and the engine's thread may both be the first to use a name

    def inc(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        metric = self._child(name, labels)
        assert isinstance(metric, Counter), f"{name} is not a counter"
        metric.inc(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._child(name, labels)
        assert isinstance(metric, Gauge), f"{name} is not a gauge"
        metric.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into a histogram."""
        metric = self._child(name, labels)
        assert isinstance(metric, Histogram), f"{name} is not a histogram"
        metric.observe(value)

    def snapshot(self, deployment: str, replica: str) -> Snapshot:
        """All values as plain data. The `_created` lines, which no dashboard uses, are left out."""
        families = []
        for family in self._registry.collect():
            samples = [
                Sample(sample.name, tuple(sorted(sample.labels.items())), sample.value)
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            name = family.name + ("_total" if family.type == "counter" else "")
            families.append((name, tuple(samples)))
        return Snapshot(deployment, replica, tuple(families))

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        key = (name, *labels.items())
        child = self._children.get(key)
        if child is None:
            with self._making:
                metric = self._made.get(name)
                if metric is None:
                    metric = self._made[name] = _make(name, METRICS[name], self._registry)
            child = self._children[key] = metric.labels(**labels) if labels or METRICS[name].labels else metric
        return child


def _make(name: str, spec: Spec, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if spec.kind == "counter":
        return Counter(name, spec.help, spec.labels, registry=registry)
    if spec.kind == "gauge":
        return Gauge(name, spec.help, spec.labels, registry=registry)
    return Histogram(name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)


class _Snapshots(Collector):
    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._snapshots = list(snapshots)

    def collect(self) -> Iterable[Family]:
        for name, spec in METRICS.items():
            family = Family(name.removesuffix("_total"), spec.help, spec.kind)
            for snapshot in self._snapshots:
                where = {"deployment": snapshot.deployment, "replica": snapshot.replica}
                for sample in dict(snapshot.families).get(name, ()):
                    family.add_sample(sample.name, {**dict(sample.labels), **where}, sample.value)
            yield family


def render(snapshots: Iterable[Snapshot]) -> str:
    """The Prometheus text of many replicas: every family of the table, in its order, with its help."""
    registry = CollectorRegistry()
    registry.register(_Snapshots(snapshots))
    return generate_latest(registry).decode()
