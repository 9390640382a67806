"""Quantiles within buckets, and the histograms of several replicas as one."""

from __future__ import annotations

import math

import pytest

from serve_app.histograms import Observed, observed, quantile
from serve_app.metrics import Metrics

INF = math.inf


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ({}, 0.5, None),
        ({1.0: 0, INF: 0}, 0.5, None),
        ({1.0: 10, INF: 10}, 0.5, 0.5),
        ({1.0: 10, INF: 10}, 1.0, 1.0),
        ({1.0: 0, 2.0: 10, INF: 10}, 0.5, 1.5),
        ({1.0: 5, 2.0: 10, INF: 10}, 0.5, 1.0),
        ({1.0: 5, 2.0: 10, INF: 10}, 0.75, 1.5),
        ({1.0: 5, 2.0: 5, 4.0: 10, INF: 10}, 0.6, 2.4),
        ({1.0: 5, INF: 10}, 0.99, 1.0),
        ({INF: 10}, 0.5, 0.0),
        ({INF: 4, 2.0: 4, 1.0: 1}, 0.5, 4 / 3),
    ],
)
def test_a_quantile_is_linear_within_its_bucket(buckets: dict[float, float], share: float, value: float | None) -> None:
    assert quantile(buckets, share) == (value if value is None else pytest.approx(value))


def test_replicas_are_added_up_and_labels_kept_apart_where_asked() -> None:
    one, two = Metrics(), Metrics()
    one.observe("frugal_cache_age_seconds", 5.0, model="tiny", feed="")
    one.observe("frugal_cache_age_seconds", 7.0, model="tiny", feed="feed0")
    two.observe("frugal_cache_age_seconds", 100.0, model="other", feed="feed0")
    snapshots = [one.snapshot("AnswerCache", "one"), two.snapshot("AnswerCache", "two"), Metrics().snapshot("Model", "three")]
    means = {group: found.mean for group, found in observed(snapshots, "frugal_cache_age_seconds", "model").items()}
    assert means == {("tiny",): 6.0, ("other",): 100.0}
    assert {group: found.total for group, found in observed(snapshots, "frugal_cache_age_seconds", "feed", "model").items()} == {
        ("", "tiny"): 5.0,
        ("feed0", "tiny"): 7.0,
        ("feed0", "other"): 100.0,
    }
    assert observed(snapshots, "frugal_cache_age_seconds")[()].buckets[10.0] == 2


def test_without_observations_there_is_neither_a_mean_nor_a_quantile() -> None:
    assert (Observed().mean, set(Observed().quantiles().values())) == (None, {None})
    assert observed([], "frugal_cache_age_seconds")[()] == Observed()
