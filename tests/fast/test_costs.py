"""From rows to the report: every figure follows from rows a person can add up, and nothing divides by zero."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.costs import replica_time, report, request_cost_usd
from serve_app.messages import REUSED
from serve_app.metrics import Metrics
from serve_app.store.answers import Group
from serve_app.store.ledger import LedgerRow, ReplicaRow

HOUR = 7200
MISS = LedgerRow(HOUR, "tiny", "", "miss", "stop", 2, 20, 10, 4.0, 10.0, 0.0, 0.002, 6.0)
HIT = LedgerRow(HOUR, "tiny", "feed0", "hit", "stop", 1, 10, 5, 0.0, 0.0, 2.0, 0.0, 0.5)
BROKEN = LedgerRow(HOUR + 3600, "tiny", "", "miss", "error", 1, 0, 0, 0.0, 0.0, 0.0, 0.0, 1.5)
STOPPED = ReplicaRow("old", "tiny", "host", "stopped", 7000.0, 7090.0, 7100.0, 10.0, 20.0, 65.0, 4.0, 3.6, 0.02, 0.1, 5, 15, 5)
ALIVE = ReplicaRow("new", "tiny", "host", "ready", 7100.0, 7200.0, None, 20.0, 30.0, 50.0, 0.0, 7.2, 0.06, 0.2, 5, 5, 0)

NOTE = "dollars are saved only where a replica was given back; until then caching and batching avoid compute-seconds"

NO_AGE = {"mean_s": None, "p50_s": None, "p95_s": None, "p99_s": None}
CACHE_NOTE = "evictions, errors and ages since the present replicas started; entries and bytes of this moment, give or take half a minute"
LATENCY_NOTE = "means over all time; quantiles since the present replicas started"
BATCH_NOTE = "rows over all time; batch sizes since the present Model replicas started"


def work() -> Metrics:
    """Two misses of 2 and 4 s in the cache's histogram, and three batches in the engine's."""
    metrics = Metrics()
    for seconds in (2.0, 4.0):
        metrics.observe("frugal_cache_answer_seconds", seconds, outcome="miss")
    for rows in (1, 4, 4):
        metrics.observe("frugal_engine_batch_size", rows)
    return metrics


def requests(**changes: Any) -> dict[str, Any]:
    """A section of requests without any."""
    return {
        "total": 0,
        "by_outcome": {},
        "by_ending": {},
        "hit_ratio": None,
        "token_hit_ratio": None,
        "compute_s": 0,
        "avoided_s": 0,
        "cost_usd": 0,
        "age": NO_AGE,
        "stored": {"entries": None, "size_bytes": None},
        **changes,
    }


def test_the_report_of_a_small_case_is_what_a_person_would_add_up() -> None:
    all_requests = requests(
        total=4,
        by_outcome={"miss": 3, "hit": 1},
        by_ending={"stop": 3, "error": 1},
        hit_ratio=0.25,
        token_hit_ratio=5 / 15,
        compute_s=4.0,
        avoided_s=2.0,
        cost_usd=0.002,
    )
    of_feed = requests(
        total=1, by_outcome={"hit": 1}, by_ending={"stop": 1}, hit_ratio=1.0, token_hit_ratio=1.0, compute_s=0.0, avoided_s=2.0
    )
    bill, usage = 0.1 + 0.2, 0.08
    assert report([MISS, HIT, BROKEN], [STOPPED, ALIVE], [work().snapshot("AnswerCache", "one")], 9000.0) == {
        "object": "report",
        "since": 7000,
        "until": 9000.0,
        "requests": all_requests,
        "tokens": {"prompt": 30, "completion": 15},
        "latency": {
            "mean_s": 2.0,
            "by_outcome": {
                "miss": {"mean_s": 2.5, "p50_s": 2.5, "p95_s": 4.75, "p99_s": 4.95},
                "hit": {"mean_s": 0.5, "p50_s": None, "p95_s": None, "p99_s": None},
            },
            "note": LATENCY_NOTE,
        },
        "cache": {"evictions": 0, "errors": 0, "memory": {"entries": 0, "size_bytes": 0}, "note": CACHE_NOTE},
        "batching": {"rows_per_step": 2.0, "wasted_row_share": 0.2, "batch_sizes": {"<=1": 1, "<=4": 2}, "note": BATCH_NOTE},
        "compute": {
            "spent_s": 50.0,
            "attributed_s": 4.0,
            "lost_s": 4.0,
            "avoided_by_cache_s": 2.0,
            "avoided_by_batching_s": 6.0,
            "one_at_a_time_s": 10.0,
        },
        "replicas": {
            "number": 2,
            "total": {"replica_s": 200.0, "used_s": 50.0, "idle_s": 115.0, "startup_s": 30.0, "unaccounted_s": 5.0},
            "each": [
                {
                    "id": "old",
                    "model": "tiny",
                    "host": "host",
                    "phase": "stopped",
                    "started_at": 7000.0,
                    "stopped_at": 7100.0,
                    "last_seen_at": 7090.0,
                    "replica_s": 100.0,
                    "used_s": 20.0,
                    "idle_s": 65.0,
                    "startup_s": 10.0,
                    "unaccounted_s": 5.0,
                    "price_per_hour_usd": 3.6,
                },
                {
                    "id": "new",
                    "model": "tiny",
                    "host": "host",
                    "phase": "ready",
                    "started_at": 7100.0,
                    "stopped_at": None,
                    "last_seen_at": 7200.0,
                    "replica_s": 100.0,
                    "used_s": 30.0,
                    "idle_s": 50.0,
                    "startup_s": 20.0,
                    "unaccounted_s": 0.0,
                    "price_per_hour_usd": 7.2,
                },
            ],
        },
        "cost": {
            "usage_usd": usage,
            "allocation_usd": pytest.approx(bill),
            "attributed_usd": 0.002,
            "utilisation": pytest.approx(usage / bill),
            "usage_usd_per_1k_requests": usage * 1000 / 4,
            "allocation_usd_per_1k_requests": pytest.approx(bill * 1000 / 4),
            "usage_usd_per_1m_completion_tokens": usage * 1_000_000 / 15,
            "allocation_usd_per_1m_completion_tokens": pytest.approx(bill * 1_000_000 / 15),
            "price_per_replica_hour_usd": 7.2,
            "note": NOTE,
        },
        "by_feed": {"feed0": of_feed},
        "by_model": {"tiny": all_requests},
    }


def test_the_report_of_nothing_has_nothing_instead_of_zero_divided_by_zero() -> None:
    assert report([], [], [], 9000.0) == {
        "object": "report",
        "since": None,
        "until": 9000.0,
        "requests": requests(),
        "tokens": {"prompt": 0, "completion": 0},
        "latency": {"mean_s": None, "by_outcome": {}, "note": LATENCY_NOTE},
        "cache": {"evictions": 0, "errors": 0, "memory": {"entries": 0, "size_bytes": 0}, "note": CACHE_NOTE},
        "batching": {"rows_per_step": None, "wasted_row_share": None, "batch_sizes": {}, "note": BATCH_NOTE},
        "compute": {
            "spent_s": 0,
            "attributed_s": 0.0,
            "lost_s": 0,
            "avoided_by_cache_s": 0.0,
            "avoided_by_batching_s": 0.0,
            "one_at_a_time_s": 0.0,
        },
        "replicas": {"number": 0, "total": {"replica_s": 0, "used_s": 0, "idle_s": 0, "startup_s": 0, "unaccounted_s": 0}, "each": []},
        "cost": {
            "usage_usd": 0,
            "allocation_usd": 0,
            "attributed_usd": 0.0,
            "utilisation": None,
            "usage_usd_per_1k_requests": None,
            "allocation_usd_per_1k_requests": None,
            "usage_usd_per_1m_completion_tokens": None,
            "allocation_usd_per_1m_completion_tokens": None,
            "price_per_replica_hour_usd": None,
            "note": NOTE,
        },
        "by_feed": {},
        "by_model": {},
    }


def test_several_replicas_histograms_are_one() -> None:
    both = report([MISS], [], [work().snapshot("AnswerCache", name) for name in ("one", "two")], 9000.0)
    assert both["batching"]["batch_sizes"] == {"<=1": 2, "<=4": 4}
    assert both["latency"]["by_outcome"]["miss"] == {"mean_s": 3.0, "p50_s": 2.5, "p95_s": 4.75, "p99_s": 4.95}


def served(*ages_s: float, feed: str = "", model: str = "tiny") -> Metrics:
    """A replica of the cache that served stored answers of these ages, evicted two and has one in memory."""
    metrics = Metrics()
    for age_s in ages_s:
        metrics.observe("frugal_cache_age_seconds", age_s, model=model, feed=feed)
    metrics.inc("frugal_cache_evictions_total", 2)
    metrics.inc("frugal_cache_errors_total", 1, operation="get")
    metrics.set("frugal_cache_memory_entries", 1)
    metrics.set("frugal_cache_memory_bytes", 1500)
    return metrics


def test_the_ages_of_served_answers_are_told_in_all_by_model_and_by_feed() -> None:
    of_users, of_feed = served(10.0, 60.0).snapshot("AnswerCache", "one"), served(3600.0, feed="feed0").snapshot("Ingress", "two")
    data = report([MISS, HIT], [], [of_users, of_feed], 9000.0)
    assert data["requests"]["age"] == data["by_model"]["tiny"]["age"]
    assert data["requests"]["age"]["mean_s"] == (10 + 60 + 3600) / 3
    assert data["requests"]["age"]["p50_s"] == pytest.approx(45.0)  # half of the way from 30 to 60 s, the bucket of the second one
    assert data["by_feed"]["feed0"]["age"] == {
        "mean_s": 3600.0,
        "p50_s": pytest.approx(2250.0),
        "p95_s": pytest.approx(3465.0),
        "p99_s": pytest.approx(3573.0),
    }


def test_what_all_replicas_evicted_and_hold_in_memory_is_added_up() -> None:
    both = [served().snapshot("AnswerCache", name) for name in ("one", "two")]
    assert report([], [], both, 0.0)["cache"] == {
        "evictions": 4,
        "errors": 2,
        "memory": {"entries": 2, "size_bytes": 3000},
        "note": CACHE_NOTE,
    }


def test_what_is_stored_is_told_in_all_by_model_and_by_feed() -> None:
    stored = [Group("tiny", "", 3, 3000, 9), Group("tiny", "feed0", 2, 2000, 0), Group("old", "feed1", 1, 500, 0)]
    data = report([MISS, HIT], [], [], 0.0, stored)
    sections = {"all": data["requests"], **data["by_model"], **data["by_feed"]}
    assert {name: tuple(section["stored"].values()) for name, section in sections.items()} == {
        "all": (6, 5500),
        "tiny": (5, 5000),
        "old": (1, 500),
        "feed0": (2, 2000),
        "feed1": (1, 500),
    }
    assert data["by_model"]["old"] == requests(stored={"entries": 1, "size_bytes": 500})


def test_nothing_stored_is_not_the_same_as_not_known() -> None:
    assert report([], [], [], 0.0, [])["requests"]["stored"] == {"entries": 0, "size_bytes": 0}
    assert report([], [], [], 0.0, None)["requests"]["stored"] == {"entries": None, "size_bytes": None}


@pytest.mark.parametrize("outcome", REUSED)
def test_every_way_of_reusing_an_answer_counts_and_is_told_apart(outcome: str) -> None:
    data = report([MISS, replace(HIT, outcome=outcome)], [], [], 0.0)["requests"]
    assert (data["hit_ratio"], data["token_hit_ratio"], data["by_outcome"]) == (1 / 3, 5 / 15, {"miss": 2, outcome: 1})


def test_a_batch_larger_than_the_last_bound_is_told_as_more() -> None:
    metrics = Metrics()
    metrics.observe("frugal_engine_batch_size", 1000)
    assert report([], [], [metrics.snapshot("Model", "one")], 0.0)["batching"]["batch_sizes"] == {"more": 1}


@pytest.mark.parametrize(("compute_s", "price", "cost"), [(3600.0, 0.05, 0.05), (1.0, 3600.0, 1.0), (0.0, 5.0, 0.0), (5.0, 0.0, 0.0)])
def test_a_request_costs_its_seconds_at_the_price_per_hour(compute_s: float, price: float, cost: float) -> None:
    assert request_cost_usd(compute_s, price) == cost


quarter_s = st.integers(0, 4000).map(lambda value: value / 4)  # sums of quarters are exact, so that equality may be asked for
counts = st.integers(0, 1000)
rows = st.builds(
    LedgerRow,
    hour=st.sampled_from([3600, 7200]),
    model=st.sampled_from(["tiny", "other"]),
    feed_id=st.sampled_from(["feed0", "feed1"]),
    outcome=st.sampled_from([*REUSED, "miss", "bypass"]),
    ending=st.sampled_from(["stop", "length", "cancelled", "error"]),
    requests=counts,
    prompt_tokens=counts,
    completion_tokens=counts,
    compute_s=quarter_s,
    alone_s=quarter_s,
    avoided_s=quarter_s,
    cost_usd=quarter_s,
    latency_s=quarter_s,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=12))
def test_the_parts_of_each_section_add_up_to_the_total(found: list[LedgerRow]) -> None:
    data = report(found, [], [], 9000.0)
    total = data["requests"]
    for section in ("by_feed", "by_model"):
        for name in ("total", "compute_s", "avoided_s", "cost_usd"):
            assert sum(part[name] for part in data[section].values()) == total[name]
    assert sum(total["by_outcome"].values()) == sum(total["by_ending"].values()) == total["total"] == sum(row.requests for row in found)
    assert data["compute"]["attributed_s"] == total["compute_s"]
    assert data["compute"]["avoided_by_cache_s"] == total["avoided_s"]
    assert data["cost"]["attributed_usd"] == total["cost_usd"]
    assert data["compute"]["attributed_s"] + data["compute"]["avoided_by_batching_s"] == data["compute"]["one_at_a_time_s"]


@st.composite
def replicas(draw: st.DrawFn) -> ReplicaRow:
    started, lived = draw(quarter_s), draw(quarter_s)
    row = replace(ALIVE, startup_s=draw(quarter_s), used_s=draw(quarter_s), idle_s=draw(quarter_s), started_at=started)
    end = started + lived
    return replace(row, last_seen_at=end, stopped_at=draw(st.sampled_from([None, end])))


@settings(max_examples=60, deadline=None)
@given(st.lists(replicas(), max_size=5))
def test_the_parts_of_a_replicas_time_are_all_of_it(found: list[ReplicaRow]) -> None:
    time = replica_time(found)
    assert time["used_s"] + time["idle_s"] + time["startup_s"] + time["unaccounted_s"] == time["replica_s"]
    assert time["replica_s"] == sum(row.last_seen_at - row.started_at for row in found)
