"""Retry-After follows the measured rate, within bounds."""

from __future__ import annotations

import pytest

from serve_app.drain import GUESS_S, MAX_RETRY_S, MIN_RETRY_S, Drain


@pytest.mark.parametrize(
    ("endings", "now", "wanted"),
    [
        ([], 100.0, GUESS_S),
        ([99.0], 100.0, GUESS_S),
        ([80.0, 90.0], 100.0, 10.0),
        ([99.99, 100.0], 100.0, MIN_RETRY_S),
        ([0.0, 1.0], 100_000.0, MAX_RETRY_S),
    ],
)
def test_the_time_to_come_back_is_the_mean_time_between_endings(endings: list[float], now: float, wanted: float) -> None:
    times = iter([*endings, now, now])
    drain = Drain(lambda: next(times))
    for _ in endings:
        drain.ended()
    assert drain.retry_after_s() == wanted
