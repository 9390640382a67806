"""What AnswerCache tells of each caller in its metrics."""

from __future__ import annotations

import pytest

from serve_app.cache.books import Books
from serve_app.messages import REUSED, Ask, Generate, Outcome, Sampling
from serve_app.metrics import Metrics
from tests.fast.fakes_api import finish

ASK = Ask(Generate("r0", "tiny", Sampling()), feed_id="feed0")
SUMS = (
    "frugal_cache_requests_total",
    "frugal_cache_tokens_total",
    "frugal_cache_avoided_compute_seconds_total",
    "frugal_cache_age_seconds_sum",
)


def told(outcome: Outcome, age_s: float | None) -> dict[str, float]:
    """What one caller leaves behind, and with which labels."""
    metrics = Metrics()
    Books(metrics, lambda: 7200.0).caller(ASK, outcome, "stop", finish("stop", 5), 0.25, age_s)
    samples = [sample for _, family in metrics.snapshot("AnswerCache", "one").families for sample in family if sample.name in SUMS]
    outcomes = {dict(sample.labels).pop("outcome", outcome) for sample in samples}
    assert (outcomes, {dict(sample.labels)["feed"] for sample in samples}) == ({outcome}, {"feed0"})
    return {sample.name: sample.value for sample in samples}


@pytest.mark.parametrize("outcome", ["miss", "bypass"])
def test_a_new_answer_avoids_nothing_and_has_no_age(outcome: Outcome) -> None:
    assert told(outcome, None) == dict(zip(SUMS, (1.0, 5.0, 0.0), strict=False))


@pytest.mark.parametrize("outcome", REUSED)
def test_a_reused_answer_avoids_its_generation(outcome: Outcome) -> None:
    compute_s = finish("stop", 5).compute_s
    assert compute_s > 0
    assert told(outcome, None) == dict(zip(SUMS, (1.0, 5.0, compute_s), strict=False))
    assert told(outcome, 60.0) == dict(zip(SUMS, (1.0, 5.0, compute_s, 60.0), strict=True))
