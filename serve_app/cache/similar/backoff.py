"""Pure: how often similar answers were wrong, how sure that is, and when the threshold must rise.

A share of similar hits is also generated and compared (shadow sampling). From `wrong` of `judged`, Wilson's interval says what the true
rate may be (E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927): it holds for few samples
and for rates near zero, where the textbook's p +- 1.96 s does not.

The threshold rises when the interval's *lower* end is above the limit, that is, when the rate is too high beyond reasonable doubt. The
upper end could not be the rule: it is 1 before the first sample and above 1 % until 381 samples in a row were right, so nothing would
ever be served. The interval is looked at after every sample, which makes a false alarm likelier than its 2.5 %; that errs on the side of
fewer similar answers. One wrong answer alone raises nothing, because the comparison may be what is wrong.
Tests: tests/fast/test_similar_backoff.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serve_app.store.similar import Trial

Z95 = 1.959964  # of the normal distribution, two-sided 95 %
LEAST_WRONG = 2


def wilson(wrong: int, judged: int) -> tuple[float, float]:
    """The 95 % interval of a rate of which `wrong` out of `judged` were seen; (0, 1) where nothing was."""
    if judged == 0:
        return 0.0, 1.0
    rate, z2 = wrong / judged, Z95**2
    middle = (rate + z2 / (2 * judged)) / (1 + z2 / judged)
    half = Z95 / (1 + z2 / judged) * math.sqrt(rate * (1 - rate) / judged + z2 / (4 * judged**2))
    return (0.0 if wrong == 0 else max(0.0, middle - half)), (1.0 if wrong == judged else min(1.0, middle + half))


def judged(trial: Trial, *, right: bool, limit: float, step: float, now: float) -> Trial:
    """The trial with one more sample; with a higher threshold, and counting anew, where its rate is surely above `limit`."""
    trial = replace(
        trial,
        judged=trial.judged + 1,
        wrong=trial.wrong + (not right),
        all_judged=trial.all_judged + 1,
        all_wrong=trial.all_wrong + (not right),
        updated_at=now,
    )
    if trial.off or trial.wrong < LEAST_WRONG or wilson(trial.wrong, trial.judged)[0] <= limit:
        return trial
    raised = round(trial.threshold + step, 6)
    return replace(trial, threshold=raised, judged=0, wrong=0)


def section(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The report's part: each trial with its measured false-hit rate and the 95 % interval, at the present threshold and of all samples.

    A rate is null, and its interval 0 to 1, where nothing has been compared.
    """
    return [
        {
            "model": trial.model,
            "configured_threshold": trial.configured,
            "threshold": None if trial.off else trial.threshold,
            "off": trial.off,
            **_rate(trial.wrong, trial.judged),
            "over_all_thresholds": _rate(trial.all_wrong, trial.all_judged),
            "updated_at": trial.updated_at,
        }
        for trial in trials
    ]


def _rate(wrong: int, judged: int) -> dict[str, Any]:
    rate = wrong / judged if judged else None
    return {"compared": judged, "wrong": wrong, "false_hit_rate": rate, "false_hit_rate_95": list(wilson(wrong, judged))}
