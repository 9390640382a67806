"""The scheduler against a runner that knows what is really in each slot: nobody decodes on another's KV, is forgotten, or ends twice.

Prefixes and slots: test_scheduler_slots.py.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serve_app.messages import Priority
from serve_app.model.scheduler import Chunk, Limits, Scheduler, Sequence, Step
from tests.engine.fakes_scheduler import LIMITS, SYSTEM, World


def prompt(random: Random) -> list[int]:
    """Two different tokens only, behind one of few beginnings: prefixes of every length are shared."""
    start = random.choice([[], SYSTEM, SYSTEM[:2], [0] * 12])
    return start + [random.randrange(2) for _ in range(random.randint(1, 20))]


def a_priority(random: Random) -> Priority:
    return "batch" if random.random() < 0.5 else "interactive"


class Traffic(RuleBasedStateMachine):
    """Callers come, leave, hurry and run late; steps break; the engine turns its limits up and down."""

    @initialize(num_slots=st.integers(1, 6), max_live=st.integers(1, 6), starvation_s=st.sampled_from([0.0, 5.0, 1e9]))
    def start(self, num_slots: int, max_live: int, starvation_s: float) -> None:
        self.world = World(num_slots, max_live=max_live, starvation_s=starvation_s)

    @rule(seed=st.integers(0, 999), within_s=st.none() | st.integers(0, 20), count=st.integers(1, 4))
    def arrive(self, seed: int, within_s: int | None, count: int) -> None:
        random = Random(seed)
        for _ in range(count):
            self.world.arrive(prompt(random), random.randint(1, 12), a_priority(random), within_s)

    @rule(number=st.integers(0, 40))
    def leave(self, number: int) -> None:
        self.world.scheduler.cancel(number)
        self.world.scheduler.check()
        self.world.scheduler.cancel(number)

    @rule(number=st.integers(0, 40))
    def hurry(self, number: int) -> None:
        self.world.scheduler.promote(number)

    @rule(stops=st.integers(0, 63), steps=st.integers(1, 6))
    def step(self, stops: int, steps: int) -> None:
        for _ in range(steps):
            stop = [sequence for n, sequence in enumerate(self.world.scheduler.running) if stops >> n & 1]
            self.world.step(stop)

    @rule(seed=st.integers(0, 999))
    def break_step(self, seed: int) -> None:
        self.world.break_step(seed)

    @rule(
        max_live=st.integers(1, 8),
        token_budget=st.integers(1, 40),
        chunk_tokens=st.integers(1, 40),
        min_prefix=st.integers(1, 8),
        max_guesses=st.integers(0, 5),
    )
    def tune(self, max_live: int, token_budget: int, chunk_tokens: int, min_prefix: int, max_guesses: int) -> None:
        starvation_s = self.world.scheduler.tuning.starvation_s
        self.world.scheduler.tuning = Limits(token_budget, chunk_tokens, max_live, starvation_s, min_prefix, max_guesses)

    @rule(seed=st.integers(0, 999), rate=st.sampled_from([0.2, 1.0]))
    def fail(self, seed: int, rate: float) -> None:
        self.world.fail(seed, rate)

    @rule(seconds=st.integers(0, 25))
    def pass_time(self, seconds: int) -> None:
        self.world.now += seconds

    @invariant()
    def holds(self) -> None:
        """After every call, those that change only a flag included."""
        if hasattr(self, "world"):
            self.world.scheduler.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_arrivals_cancellations_and_failures_leak_no_slot(seed: int) -> None:
    random = Random(seed)
    world = World(num_slots=random.randint(2, 8), max_guesses=seed)
    while len(world.arrived) < 1000:
        for _ in range(random.randrange(4)):
            within_s = random.choice([None, None, random.randint(0, 60)])
            world.arrive(prompt(random), random.randint(1, 12), a_priority(random), within_s)
        recent = len(world.arrived) - random.randrange(12)
        if random.random() < 0.3:
            world.scheduler.cancel(recent)
        if random.random() < 0.2:
            world.scheduler.promote(recent)
        if random.random() < 0.2:
            world.break_step(random.randrange(1000), rate=random.choice([0.0, 0.3, 1.0]))
        else:
            world.step(stop=random.choices(world.arrived, k=5) if world.arrived else ())
    world.drain()
    assert set(world.endings.values()) == {"cancelled", "deadline", "failed", "stop", "length"}
    assert sum(sequence.num_cached > 0 for sequence in world.arrived) > 100


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=30), st.integers(1, 10)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_without_departures_everybody_gets_all_tokens(
    asked: list[tuple[list[int], int]], num_slots: int, token_budget: int, chunk_tokens: int
) -> None:
    world = World(num_slots, token_budget=token_budget, chunk_tokens=chunk_tokens)
    for prompt_ids, max_tokens in asked:
        world.arrive(prompt_ids, max_tokens)
    world.drain()
    assert [len(sequence.token_ids) for sequence in world.arrived] == [max_tokens for _, max_tokens in asked]
    assert set(world.endings.values()) == {"length"}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 20), st.integers(1, 8))
def test_batch_sequences_do_not_starve_in_the_line_nor_in_their_slot(num_slots: int, starvation_s: int, chunk_tokens: int) -> None:
    world = World(num_slots, starvation_s=float(starvation_s), chunk_tokens=chunk_tokens, token_budget=20)
    backlog = [world.arrive([n] * 20, 3) for n in range(2)]
    patient = world.arrive([5] * 30, 3, "batch")
    steps = 0
    while patient.state != "ended":
        world.arrive([10 + steps % 7] * 20, 3)  # each second an interactive prompt that takes more than a second
        world.step()
        steps += 1
    ahead = len(backlog) + starvation_s + 1
    assert steps <= starvation_s + (ahead + num_slots) * (20 // chunk_tokens + 5) + 30 // chunk_tokens + 5


def test_a_prompt_is_prefilled_in_chunks_beside_the_decodes() -> None:
    world = World()
    talker = world.arrive([1, 2, 3], max_tokens=9)
    assert world.step() == Step(chunks=(Chunk(talker, 0, 3),))
    reader = world.arrive(list(range(20, 40)), max_tokens=3)
    assert world.step() == Step(decodes=(talker,), chunks=(Chunk(reader, 0, 8),))
    assert world.step() == Step(decodes=(talker,), chunks=(Chunk(reader, 8, 16),))
    last = world.step()
    assert last == Step(decodes=(talker,), chunks=(Chunk(reader, 16, 20),))
    assert (last.num_prompt, last.yields) == (4, (talker, reader))
    assert (reader.state, reader.num_computed, len(reader.token_ids)) == ("decode", 20, 1)
    assert world.step() == Step(decodes=(talker, reader))
    assert (reader.num_computed, len(reader.token_ids)) == (21, 2)


def test_several_prompts_share_the_prefill_of_one_step() -> None:
    world = World()
    first, second, third = (world.arrive([n] * 3) for n in range(3))
    assert world.step().chunks == (Chunk(first, 0, 3), Chunk(second, 0, 3), Chunk(third, 0, 2))


def test_decodes_that_fill_the_budget_do_not_stop_a_prompt() -> None:
    world = World(num_slots=4, token_budget=2, chunk_tokens=30)
    talkers = [world.arrive([n], max_tokens=20) for n in range(3)]
    world.step()
    reader = world.arrive([9] * 20)
    assert world.step() == Step(decodes=tuple(talkers), chunks=(Chunk(reader, 0, 16),))


def test_an_urgent_prompt_goes_before_a_long_batch_prompt_that_is_half_way() -> None:
    world = World()
    patient = world.arrive([1] * 30, priority="batch")
    world.step()
    urgent = world.arrive([2] * 6)
    assert world.step().chunks == (Chunk(urgent, 0, 6), Chunk(patient, 8, 10))


def test_a_batch_sequence_that_has_waited_long_or_was_promoted_keeps_its_place_in_the_line() -> None:
    for hurry in ("time", "promotion", "none"):
        world = World(num_slots=1)
        world.arrive([1], max_tokens=3)
        world.step()
        patient = world.arrive([2], priority="batch")
        world.step(seconds=100.0 if hurry == "time" else 1.0)
        urgent = world.arrive([3])
        if hurry == "promotion":
            world.scheduler.promote(patient.number)
        world.step()
        world.step()
        assert world.scheduler.running == [urgent if hurry == "none" else patient]


def test_a_promoted_prompt_overtakes_in_its_slot_too() -> None:
    world = World()
    patient = world.arrive([1] * 30, priority="batch")
    world.step()
    urgent = world.arrive([2] * 30)
    world.step()
    world.scheduler.promote(patient.number)
    assert world.step().chunks == (Chunk(patient, 8, 16),)
    assert urgent.num_computed == 8


def test_a_lower_max_live_throws_nobody_out_and_lets_nobody_in() -> None:
    world = World()
    first, second = world.arrive([1], max_tokens=9), world.arrive([2], max_tokens=2)
    world.step()
    world.scheduler.tuning = Limits(token_budget=12, chunk_tokens=8, max_live=1, starvation_s=30.0)
    third = world.arrive([3])
    world.step()
    assert second.state == "ended"
    world.step(stop=[first])
    assert (world.scheduler.running, world.scheduler.waiting) == ([], [third])
    world.step()
    assert world.scheduler.running == [third]


def test_whoever_leaves_or_is_late_gives_the_slot_to_the_next_in_the_same_plan() -> None:
    world = World(num_slots=2)
    leaver, late = world.arrive([1], max_tokens=9), world.arrive([2], max_tokens=9, within_s=1.0)
    gone, heirs = world.arrive([3]), [world.arrive([4]), world.arrive([5])]
    world.step()
    world.scheduler.cancel(leaver.number)
    world.scheduler.cancel(gone.number)
    world.scheduler.cancel(12345)
    world.step()
    assert world.scheduler.running == heirs
    assert world.endings == {leaver.number: "cancelled", late.number: "deadline", gone.number: "cancelled"}


def test_a_sequence_that_failed_between_plan_and_settle_gets_no_token() -> None:
    world = World()
    bad, good = world.arrive([1, 2, 3, 4]), world.arrive([5])
    step = world.plan()
    world.scheduler.fail([bad, bad])
    world.scheduler.settle(step, [[9], [9]], [bad])
    world.scheduler.check()
    assert (bad.token_ids, good.token_ids, world.scheduler.running) == ([], [9], [good])


@pytest.mark.parametrize(("prompt_ids", "max_tokens"), [([], 1), ([1], 0), ([1] * 40, 9)])
def test_a_sequence_that_could_never_be_served_is_refused(prompt_ids: list[int], max_tokens: int) -> None:
    with pytest.raises(ValueError, match=r"at least one|do not fit"):
        World().arrive(prompt_ids, max_tokens)


def test_a_number_that_is_in_use_and_a_sequence_that_has_ended_are_refused() -> None:
    world = World()
    sequence = world.arrive([1], max_tokens=1)
    with pytest.raises(ValueError, match="has been added before"):
        world.scheduler.add(Sequence(sequence.number, [2], 1, "batch", 0.0))
    world.step()
    with pytest.raises(ValueError, match="has been added before"):
        world.scheduler.add(sequence)


def test_a_step_is_settled_once_with_a_token_for_each_and_nobody_beyond_the_limit() -> None:
    world = World()
    sequence = world.arrive([1], max_tokens=1)
    step = world.plan()
    for wrong, tokens, says in (
        (Step(), [], "not the step"),
        (step, [], "tokens of 0 sequences for 1"),
        (step, [[5]], "has all its 1 tokens"),
    ):
        with pytest.raises(ValueError, match=says):
            world.scheduler.settle(wrong, tokens, [])
    world.scheduler.settle(step, [[5]], [sequence])
    with pytest.raises(ValueError, match="not the step"):
        world.scheduler.settle(step, [[5]], [sequence])


def test_what_stood_before_is_guessed_again_and_right_guesses_save_steps() -> None:
    world = World(max_guesses=3)
    sequence = world.arrive([4, 5, 6, 9, 4, 5], max_tokens=6)
    step = world.plan()
    world.scheduler.settle(step, [[6]], [])
    step = world.plan()
    assert step.guesses == {sequence: (9, 4, 5)}
    with pytest.raises(ValueError, match=r"has got \[9, 7, 5\]"):
        world.scheduler.settle(step, [[9, 7, 5]], [])
    world.scheduler.settle(step, [[9, 4, 7]], [])
    world.scheduler.check()
    assert (sequence.token_ids, sequence.num_computed) == ([6, 9, 4, 7], 9)
    assert world.plan().guesses == {}
    world.scheduler.settle(world.plan(), [[4]], [])
    assert world.plan().guesses == {}, "one more token is the last one, and nothing follows it"


@pytest.mark.parametrize("name", ["token_budget", "chunk_tokens", "max_live", "min_prefix"])
def test_limits_under_which_nothing_would_run_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        World(**{name: 0})


@pytest.mark.parametrize("damage", ["state", "slot", "count", "tokens"])
def test_check_finds_damage(damage: str) -> None:
    world = World()
    first, second = world.arrive([1, 2], max_tokens=9), world.arrive([3, 4], max_tokens=9)
    world.step()
    if damage == "state":
        first.state = "waiting"
    elif damage == "slot":
        first.slot = second.slot
    elif damage == "count":
        first.num_computed += 1
    else:
        first.prompt_ids = [3, 4]
    with pytest.raises(AssertionError):
        world.scheduler.check()


def test_an_idle_scheduler_plans_nothing() -> None:
    scheduler = Scheduler(2, 48, LIMITS)
    step, ended = scheduler.plan(0.0)
    assert (step.is_empty, step.num_prompt, ended) == (True, 0, [])
    scheduler.settle(step, [], [])
    scheduler.check()
