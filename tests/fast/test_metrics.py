"""Two replicas' figures stay apart, every family of the table is always there, and a misspelt name or label is a bug."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from serve_app.metrics import METRICS, Metrics, Sample, Snapshot, render

ONE = {"deployment": "Model", "replica": "one"}
TWO = {"deployment": "Model", "replica": "two"}


def some_work(answers: int) -> Metrics:
    """A counter, a gauge and a histogram, with and without labels."""
    metrics = Metrics()
    metrics.inc("frugal_engine_requests_total", answers, model="tiny", ending="stop")
    metrics.inc("frugal_engine_used_seconds_total", 0.5)
    metrics.set("frugal_engine_waiting", answers)
    metrics.observe("frugal_engine_batch_size", answers)
    return metrics


def lines(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a Prometheus text: its name and labels -> its value."""
    found = {}
    for family in parse(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def line(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_two_replicas_are_told_apart_by_their_labels() -> None:
    found = lines(render([some_work(3).snapshot("Model", "one"), some_work(5).snapshot("Model", "two")]))
    for where, value in ((ONE, 3.0), (TWO, 5.0)):
        assert found[line("frugal_engine_requests_total", model="tiny", ending="stop", **where)] == value
        assert found[line("frugal_engine_used_seconds_total", **where)] == 0.5
        assert found[line("frugal_engine_waiting", **where)] == value
        assert found[line("frugal_engine_batch_size_sum", **where)] == value
        assert found[line("frugal_engine_batch_size_count", **where)] == 1
    assert found[line("frugal_engine_batch_size_bucket", le="4.0", **ONE)] == 1
    assert found[line("frugal_engine_batch_size_bucket", le="4.0", **TWO)] == 0
    assert found[line("frugal_engine_batch_size_bucket", le="+Inf", **TWO)] == 1


@pytest.mark.parametrize("snapshots", [[], [some_work(1).snapshot("Model", "one")]], ids=["nobody", "one replica"])
def test_every_family_of_the_table_is_there_with_its_help(snapshots: list[Snapshot]) -> None:
    found = {family.name: (family.type, family.documentation) for family in parse(render(snapshots))}
    assert found == {name.removesuffix("_total"): (spec.kind, spec.help) for name, spec in METRICS.items()}


def test_label_values_of_any_kind_arrive() -> None:
    metrics, route = Metrics(), 'a "quoted"\nroute\\'
    metrics.inc("frugal_http_requests_total", method="GET", route=route, status="200")
    found = lines(render([metrics.snapshot("Ingress", "one")]))
    where = {"deployment": "Ingress", "replica": "one"}
    assert found == {line("frugal_http_requests_total", method="GET", route=route, status="200", **where): 1.0}


def test_a_snapshot_is_plain_data_that_pickles() -> None:
    metrics = Metrics()
    metrics.set("frugal_engine_waiting", 2)
    metrics.inc("frugal_cache_errors_total", operation="get")
    snapshot = metrics.snapshot("Model", "one")
    waiting = ("frugal_engine_waiting", (Sample("frugal_engine_waiting", (), 2.0),))
    errors = ("frugal_cache_errors_total", (Sample("frugal_cache_errors_total", (("operation", "get"),), 1.0),))
    assert snapshot == Snapshot("Model", "one", (waiting, errors))
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


def test_a_name_that_is_not_in_the_table_raises() -> None:
    with pytest.raises(KeyError, match="frugal_misspelt_total"):
        Metrics().inc("frugal_misspelt_total")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("frugal_cache_errors_total", {}),
        ("frugal_cache_errors_total", {"opration": "get"}),
        ("frugal_cache_errors_total", {"operation": "get", "model": "tiny"}),
        ("frugal_cache_evictions_total", {"operation": "get"}),
    ],
    ids=["missing", "misspelt", "too many", "of a family without labels"],
)
def test_wrong_labels_raise(name: str, labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"(?i)label"):
        Metrics().inc(name, 1.0, **labels)


def test_a_metric_of_another_kind_raises() -> None:
    with pytest.raises(AssertionError, match="frugal_engine_waiting is not a counter"):
        Metrics().inc("frugal_engine_waiting")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_meet_at_a_new_metric_all_count() -> None:
    names = [name for name, spec in METRICS.items() if spec.kind == "counter" and not spec.labels]
    metrics, start, failures = Metrics(), threading.Barrier(8), list[Exception]()

    def count() -> None:
        start.wait(10)
        try:
            for name in names:
                metrics.inc(name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failures == []
    families = dict(metrics.snapshot("Model", "one").families)
    assert families == {name: (Sample(name, (), 8.0),) for name in names}
