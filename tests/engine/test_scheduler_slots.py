"""Which slot a new sequence gets, and whose KV it finds there: prefixes of live and retired slots, and what a broken step leaves."""

from __future__ import annotations

from serve_app.model.scheduler import Chunk, Copy, Step
from tests.engine.fakes_scheduler import SYSTEM, World


def test_the_next_turn_of_a_conversation_goes_on_in_its_own_slot() -> None:
    world = World()
    turn = world.arrive([1, 2, 3, 4], max_tokens=3)
    for _ in range(3):
        world.step(token=5)
    assert turn.state == "ended"
    # KV of [1, 2, 3, 4, 5, 5]: the last token was sampled and never computed.
    answer = world.arrive([1, 2, 3, 4, 5, 5, 5, 6])
    assert world.step() == Step(chunks=(Chunk(answer, 6, 8),))
    assert (answer.slot, answer.num_cached) == (0, 6)


def test_the_same_prompt_again_computes_its_last_token() -> None:
    world = World()
    world.arrive([1, 2, 3, 4], max_tokens=1)
    world.step()
    again = world.arrive([1, 2, 3, 4])
    assert world.step() == Step(chunks=(Chunk(again, 3, 4),))


def test_a_prefix_is_copied_from_a_slot_where_somebody_runs() -> None:
    world = World()
    runner = world.arrive([*SYSTEM, 1])
    world.step()
    follower = world.arrive([*SYSTEM, 2, 2])
    assert world.step() == Step((Copy(0, 1, 6),), (runner,), (Chunk(follower, 6, 8),))
    assert follower.num_cached == 6


def test_a_short_common_prefix_is_computed() -> None:
    world = World()
    world.arrive([*SYSTEM[:2], 1])
    world.step()
    other = world.arrive([*SYSTEM[:2], 2])
    assert world.step().copies == ()
    assert other.num_cached == 0


def test_prompts_that_arrive_together_wait_one_step_for_the_prefix_of_the_first() -> None:
    world = World()
    first, second, third = (world.arrive([*SYSTEM, n]) for n in range(3))
    stranger = world.arrive([1])
    assert world.step() == Step(chunks=(Chunk(first, 0, 7), Chunk(stranger, 0, 1)))
    step = world.step()
    assert step.copies == (Copy(0, 2, 6), Copy(0, 3, 6))
    assert step.chunks == (Chunk(second, 6, 7), Chunk(third, 6, 7))


def test_a_sequence_that_waits_for_a_prefix_keeps_its_room() -> None:
    world = World(num_slots=2)
    world.arrive([*SYSTEM, 1], max_tokens=9)
    second, patient = world.arrive([*SYSTEM, 2]), world.arrive([3], priority="batch")
    assert len(world.step().chunks) == 1
    world.step()
    assert (second.slot, patient.slot) == (1, None)


def test_a_long_conversation_does_not_make_way_for_a_prompt_that_shares_its_beginning() -> None:
    world = World(num_slots=2, chunk_tokens=40, token_budget=40)
    conversation = [*SYSTEM, *range(20, 40)]
    world.arrive(conversation, max_tokens=1)
    world.step()
    stranger = world.arrive([*SYSTEM, 1], max_tokens=1)
    assert world.step() == Step((Copy(0, 1, 6),), (), (Chunk(stranger, 6, 7),))
    returns = world.arrive([*conversation, 1])
    assert world.step() == Step(chunks=(Chunk(returns, 26, 27),))


def test_a_new_prompt_takes_an_empty_slot_and_else_the_one_used_longest_ago() -> None:
    world = World(num_slots=3)
    for n in range(4):
        world.arrive([n] * 4, max_tokens=1)
        world.step()
    assert [row[0] for row in world.runner.kv] == [3, 1, 2]
    failed = world.arrive([4] * 4)
    world.step()
    world.scheduler.fail([failed])
    world.arrive([5] * 4)
    world.step()
    assert [row[0] for row in world.runner.kv] == [3, 5, 2]


def test_a_slot_that_was_copied_from_counts_as_used() -> None:
    world = World(num_slots=3, chunk_tokens=40, token_budget=40)
    for prompt_ids in ([*SYSTEM, *range(20, 40)], [1] * 4):
        world.arrive(prompt_ids, max_tokens=1)
        world.step()
    follower, stranger = world.arrive([*SYSTEM, 1]), world.arrive([2] * 4)
    world.step()
    assert (follower.slot, stranger.slot) == (2, 1)


def test_a_source_that_is_taken_in_the_same_step_is_read_first() -> None:
    world = World(num_slots=3, chunk_tokens=40, token_budget=40)
    world.arrive([*SYSTEM, *range(20, 40)], max_tokens=1)
    world.step()
    talker = world.arrive([5] * 8, max_tokens=9)
    world.step()
    near, far = world.arrive([*SYSTEM, 1]), world.arrive([5] * 9)
    assert world.step() == Step((Copy(0, 2, 6), Copy(1, 0, 8)), (talker,), (Chunk(near, 6, 7), Chunk(far, 8, 9)))


def test_after_a_broken_step_the_survivors_start_from_what_is_certain() -> None:
    world = World()
    source = world.arrive([*SYSTEM, 1], max_tokens=9)
    world.step()
    copied = world.arrive([*SYSTEM, 2])
    assert world.plan().copies == (Copy(0, 1, 6),)
    world.scheduler.fail([source])
    world.scheduler.check()
    assert world.plan() == Step(chunks=(Chunk(copied, 0, 7),))
    assert (copied.num_cached, source.state, world.scheduler.num_free) == (0, "ended", 3)


def test_a_copy_of_a_broken_step_is_not_reused_when_its_owner_leaves() -> None:
    world = World(num_slots=2)
    source = world.arrive([*SYSTEM, 1], max_tokens=9)
    world.step()
    copied = world.arrive([*SYSTEM, 2])
    assert world.plan().copies == (Copy(0, 1, 6),)
    world.scheduler.fail([source])
    world.scheduler.cancel(copied.number)
    again = world.arrive([*SYSTEM, 3])
    assert world.step() == Step(chunks=(Chunk(again, 0, 7),))


def test_what_a_failed_sequence_left_in_its_slot_is_not_reused() -> None:
    world = World()
    bad = world.arrive([*SYSTEM, 1])
    world.step()
    world.scheduler.fail([bad])
    again = world.arrive([*SYSTEM, 1])
    assert world.step() == Step(chunks=(Chunk(again, 0, 7),))
