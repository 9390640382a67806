"""Chunks and live rows by the times of the steps: simulated engines whose steps take so long for each row and prompt token."""

from __future__ import annotations

import pytest

from serve_app.model.pace import MAX_CHUNK, MIN_CHUNK, SLOWDOWN, WINDOW, Costs, Pace
from serve_app.model.steps import Chunk, Sequence, Step
from serve_app.settings import ModelTuning

COSTS = Costs(step_s=0.005, row_s=0.001, prompt_token_s=0.0004, guess_s=0.0005)  # of the simulated engine


def sequence(number: int) -> Sequence:
    return Sequence(number, [1] * 1000, 10, "interactive", 0.0)


def step(num_decodes: int, num_prompt: int = 0) -> Step:
    chunks = (Chunk(sequence(999), 0, num_prompt),) if num_prompt else ()
    return Step((), tuple(map(sequence, range(num_decodes))), chunks)


def seconds(work: Step) -> float:
    return COSTS.seconds(len(work.decodes), work.num_prompt)


def decode(pace: Pace, tuning: ModelTuning, num_steps: int, wanting: int) -> int:
    """Steps in which as many rows run as may, of those that want to; how many run at the end."""
    for _ in range(num_steps):
        num = min(pace.max_live(tuning), wanting)
        work = step(num)
        pace.observe(work, seconds(work), num, interactive=True, full=wanting > num, tuning=tuning)
    return min(pace.max_live(tuning), wanting)


@pytest.mark.parametrize("num_rows", [1, 16, 60])
def test_a_chunk_beside_an_interactive_row_makes_its_step_as_long_as_it_may_be(num_rows: int) -> None:
    pace = Pace(COSTS)
    chunk = pace.limits(ModelTuning(), num_rows, interactive=True).chunk_tokens
    assert seconds(step(num_rows, chunk)) == pytest.approx(SLOWDOWN * seconds(step(num_rows)), rel=0.05)
    aimed = ModelTuning(target_itl_ms=100)
    assert seconds(step(num_rows, pace.limits(aimed, num_rows, interactive=True).chunk_tokens)) == pytest.approx(0.1, rel=0.02)


def test_beside_batch_rows_or_nobody_the_chunk_is_the_longest() -> None:
    assert Pace(COSTS).limits(ModelTuning(target_itl_ms=20), 16, interactive=False).chunk_tokens == MAX_CHUNK


def test_a_target_below_a_decode_step_still_lets_prompts_in() -> None:
    assert Pace(COSTS).limits(ModelTuning(target_itl_ms=10), 60, interactive=True).chunk_tokens == MIN_CHUNK


def test_a_machine_that_became_slower_takes_smaller_chunks_for_the_same_target() -> None:
    pace, tuning = Pace(COSTS), ModelTuning(target_itl_ms=100)
    for num_prompt in (0, 100) * 100:
        work = step(16, num_prompt)
        pace.observe(work, 2 * seconds(work), 16, interactive=False, full=False, tuning=tuning)
    chunk = pace.limits(tuning, 16, interactive=True).chunk_tokens
    assert 2 * seconds(step(16, chunk)) == pytest.approx(0.1, rel=0.02)


def test_live_rows_come_down_to_the_target_and_stay_near_it() -> None:
    pace, tuning = Pace(COSTS), ModelTuning(max_batch_size=64, target_itl_ms=30)
    assert decode(pace, tuning, 1, wanting=100) == 64
    decode(pace, tuning, 500, wanting=100)
    seen = [decode(pace, tuning, 8, wanting=100) for _ in range(50)]
    fitting = 25  # 5 ms and 25 rows of 1 ms
    assert 0.85 * fitting <= min(seen) <= max(seen) <= fitting + 1


def test_live_rows_rise_again_one_at_a_time_when_steps_are_quick_and_somebody_waits() -> None:
    pace, tuning = Pace(COSTS), ModelTuning(max_batch_size=64, target_itl_ms=30)
    decode(pace, tuning, 63 * WINDOW, wanting=100)
    held = pace.max_live(tuning)
    eager = ModelTuning(max_batch_size=64, target_itl_ms=1000)
    decode(pace, eager, 10 * WINDOW, wanting=10)
    assert pace.max_live(eager) == held  # nobody is held back by it
    assert decode(pace, eager, 10 * WINDOW, wanting=100) == held + 10
    decode(pace, eager, 1000, wanting=100)
    assert pace.max_live(eager) == 64


def test_at_least_one_row_runs_whatever_the_target() -> None:
    pace, tuning = Pace(COSTS), ModelTuning(max_batch_size=8, target_itl_ms=0.001)
    assert decode(pace, tuning, 1000, wanting=100) == 1


def test_without_a_target_the_setting_alone_counts() -> None:
    pace, tuning = Pace(COSTS), ModelTuning(max_batch_size=8, target_itl_ms=0.001)
    decode(pace, tuning, 1000, wanting=100)
    assert pace.max_live(ModelTuning(max_batch_size=8)) == 8


@pytest.mark.parametrize(("num_rows", "num_guesses"), [(0, 6), (1, 6), (16, 6), (17, 0), (32, 0)])
def test_beside_many_rows_nobody_guesses(num_rows: int, num_guesses: int) -> None:
    assert Pace(COSTS).limits(ModelTuning(), num_rows, interactive=False).max_guesses == num_guesses
    assert Pace(COSTS).limits(ModelTuning(), 1, False, num_rows).max_guesses == num_guesses, "nor where many wait"
