"""The books add up, whoever writes at the same time."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from serve_app.store.database import Database
from serve_app.store.ledger import Ledger, LedgerRow, ReplicaRow

HOUR = 3600 * 100
ROW = LedgerRow(HOUR, "tiny", "feed0", "miss", "stop", 1, 5, 2, 0.5, 1.5, 0.25, 0.125, 0.75)
REPLICA = ReplicaRow("one", "tiny", "host", "ready", 100.0, 160.0, None, 10.0, 20.0, 30.0, 1.0, 0.05, 0.01, 0.02, 7, 50, 3)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def test_rows_with_the_same_keys_are_added_up_and_others_stay_apart(ledger: Ledger) -> None:
    others = [replace(ROW, **change) for change in ({"hour": HOUR + 3600}, {"feed_id": ""}, {"outcome": "hit"}, {"ending": "length"})]
    ledger.add([ROW, *others])
    ledger.add([ROW, replace(ROW, requests=3)])
    added_up = LedgerRow(HOUR, "tiny", "feed0", "miss", "stop", 5, 15, 6, 1.5, 4.5, 0.75, 0.375, 2.25)
    assert sorted(ledger.rows(), key=lambda row: row.key) == sorted([added_up, *others], key=lambda row: row.key)


def test_nothing_of_a_batch_with_a_broken_row_is_added(ledger: Ledger) -> None:
    with pytest.raises(Exception, match=r"(?i)not.null"):
        ledger.add([ROW, replace(ROW, model=None)])  # type: ignore[arg-type]
    assert ledger.rows() == []


def test_four_threads_that_add_at_once_lose_nothing(ledger: Ledger) -> None:
    start = threading.Barrier(4)

    def add() -> None:
        start.wait(10)
        for _ in range(25):
            ledger.add([ROW, replace(ROW, outcome="hit")])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    hundred = LedgerRow(HOUR, "tiny", "feed0", "miss", "stop", 100, 500, 200, 50.0, 150.0, 25.0, 12.5, 75.0)
    assert sorted(ledger.rows(), key=lambda row: row.outcome) == [replace(hundred, outcome="hit"), hundred]


@pytest.mark.parametrize(("since", "num_rows"), [(0.0, 1), (HOUR + 0.5, 1), (HOUR + 3599.5, 1), (HOUR + 3600.0, 0)])
def test_rows_are_asked_for_by_the_end_of_their_hour(ledger: Ledger, since: float, num_rows: int) -> None:
    ledger.add([ROW])
    assert len(ledger.rows(since)) == num_rows


def test_a_replica_has_one_row_the_latest(ledger: Ledger) -> None:
    older, latest = replace(REPLICA, id="zero", started_at=50.0), replace(REPLICA, used_s=25.0, last_seen_at=170.0, phase="stopped")
    for row in (REPLICA, older, latest):
        ledger.put_replica(row)
    assert ledger.replicas() == [older, latest]
    assert ledger.replicas(since=165.0) == [latest]


def test_only_replicas_of_this_host_that_were_just_seen_and_did_not_stop_are_alive(ledger: Ledger) -> None:
    ledger.put_replica(REPLICA)
    ledger.put_replica(replace(REPLICA, id="also"))
    ledger.put_replica(replace(REPLICA, id="elsewhere", host="other"))
    ledger.put_replica(replace(REPLICA, id="silent", last_seen_at=99.0))
    ledger.put_replica(replace(REPLICA, id="stopped", stopped_at=160.0))
    assert [ledger.live_replicas(host, 100.0) for host in ("host", "other", "nobody")] == [2, 1, 0]
