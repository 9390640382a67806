"""Wilson's interval against published values, and when the threshold rises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cache.similar.backoff import judged, section, wilson
from serve_app.store.similar import Trial

FIRST = Trial("tiny", 0.9, 0.9)


def after(*verdicts: bool, trial: Trial = FIRST, limit: float = 0.01, step: float = 0.04) -> Trial:
    for number, right in enumerate(verdicts, 1):
        trial = judged(trial, right=right, limit=limit, step=step, now=float(number))
    return trial


@pytest.mark.parametrize(
    ("wrong", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four: Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_wilsons(wrong: int, total: int, low: float, high: float) -> None:
    assert wilson(wrong, total) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_the_interval_holds_the_rate_and_is_symmetric(wrong: int, more: int) -> None:
    total = wrong + more
    low, high = wilson(wrong, total)
    assert 0 <= low <= wrong / total <= high <= 1
    assert wilson(more, total) == pytest.approx((1 - high, 1 - low))


def test_right_answers_only_count() -> None:
    assert after(*[True] * 400) == Trial("tiny", 0.9, 0.9, 400, 0, 400, 0, 400.0)


def test_one_wrong_answer_alone_raises_nothing() -> None:
    assert after(False).threshold == 0.9


def test_two_early_wrong_answers_raise_the_threshold_and_counting_begins_anew() -> None:
    assert after(True, False, False) == Trial("tiny", 0.9, 0.94, 0, 0, 3, 2, 3.0)


def test_a_rate_within_the_limit_raises_nothing_in_the_long_run() -> None:
    assert after(*[True] * 300, False, *[True] * 200, False).threshold == 0.9


def test_step_by_step_it_switches_itself_off_and_stays_off() -> None:
    off = after(*[False] * 20)
    assert (off.off, off.threshold, off.all_judged) == (True, 1.02, 20)
    assert after(*[True] * 500, trial=off).threshold == 1.02


def test_the_report_has_the_rate_and_its_interval_and_none_where_nothing_was_compared() -> None:
    low, high = wilson(2, 3)
    assert section([after(*[False] * 2, True, limit=0.9), after(*[False] * 2)]) == [
        {
            "model": "tiny",
            "configured_threshold": 0.9,
            "threshold": 0.9,
            "off": False,
            "compared": 3,
            "wrong": 2,
            "false_hit_rate": 2 / 3,
            "false_hit_rate_95": [low, high],
            "over_all_thresholds": {"compared": 3, "wrong": 2, "false_hit_rate": 2 / 3, "false_hit_rate_95": [low, high]},
            "updated_at": 3.0,
        },
        {
            "model": "tiny",
            "configured_threshold": 0.9,
            "threshold": 0.94,
            "off": False,
            "compared": 0,
            "wrong": 0,
            "false_hit_rate": None,
            "false_hit_rate_95": [0.0, 1.0],
            "over_all_thresholds": {"compared": 2, "wrong": 2, "false_hit_rate": 1.0, "false_hit_rate_95": [wilson(2, 2)[0], 1.0]},
            "updated_at": 2.0,
        },
    ]
    assert section([after(*[False] * 8)])[0]["threshold"] is None
