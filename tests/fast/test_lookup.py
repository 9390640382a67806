"""Guesses from what a sequence has read and said: what is found, how far it goes, and what it learns."""

from __future__ import annotations

import random

import pytest

from serve_app.model.lookup import Lookup

FREE = 0.0  # a price at which every guess pays


def test_what_followed_last_time_is_guessed() -> None:
    lookup = Lookup([1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 7, 1, 2])
    assert lookup.guess(4, FREE) == (3, 5, 6, 7)
    lookup.extend([3])
    assert lookup.guess(2, FREE) == (5, 6)


def test_three_tokens_that_stood_before_say_more_than_two() -> None:
    assert Lookup([1, 2, 3, 8, 9, 2, 3, 7, 1, 2, 3]).guess(1, FREE) == (8,)


@pytest.mark.parametrize("new", [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 1]])
def test_nothing_is_guessed_of_what_is_new(new: list[int]) -> None:
    assert Lookup(new).guess(5, FREE) == ()


@pytest.mark.parametrize("period", [1, 2, 3, 5])
def test_what_goes_round_is_guessed_to_go_on(period: int) -> None:
    cycle = list(range(10, 10 + period))
    lookup = Lookup([1, *cycle * 4])
    assert list(lookup.guess(12, FREE)) == (cycle * 12)[:12]


def test_no_more_than_asked_for() -> None:
    assert Lookup([1, 2, 3, 1, 2]).guess(0, FREE) == ()


def test_a_guess_is_as_long_as_it_pays() -> None:
    lookup = Lookup([*range(50), *range(50), 0, 1, 2])
    lengths = [len(lookup.guess(16, price)) for price in (0.0, 0.1, 0.3, 0.6, 0.9, 1.5)]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (16, 0)
    assert 0 < lengths[3] < lengths[2]


def test_wrong_guesses_make_shorter_ones_and_right_ones_longer_ones() -> None:
    lookup = Lookup([*range(50), 0, 1, 2])
    first = len(lookup.guess(16, 0.3))
    for _ in range(5):
        lookup.learn(len(lookup.guess(16, 0.3)), 0)
    wronged = len(lookup.guess(16, 0.3))
    for _ in range(20):
        lookup.guess(16, 0.3)
        lookup.learn(4, 4)
    assert wronged < first < len(lookup.guess(16, 0.3))


def test_after_wrong_guesses_it_tries_again_in_time() -> None:
    lookup = Lookup([*range(50), 0, 1, 2])
    for _ in range(30):
        lookup.guess(16, 0.3)
        lookup.learn(1, 0)
    assert [len(lookup.guess(16, 0.3)) > 0 for _ in range(30)][::29] == [False, True]


def test_it_knows_the_same_whether_tokens_come_one_by_one_or_together() -> None:
    draw = random.Random(1)
    tokens = [draw.randrange(4) for _ in range(200)]
    slow = Lookup([])
    for number, token in enumerate(tokens):
        slow.extend([token])
        assert slow.guess(3, FREE) == Lookup(tokens[: number + 1]).guess(3, FREE)
