"""The nearest of a group, exactly; bounded, and the least recently used goes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cache.similar.embedding import Vectors
from serve_app.cache.similar.index import Index, Known


def at(degrees: float) -> Vectors:
    """A vector of length 1."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def known(key: str, group: str = "g") -> Known:
    return Known(key, group, f"question {key}")


def keys(index: Index, degrees: float, threshold: float = 0.5, limit: int = 8, group: str = "g") -> list[str]:
    return [found.key for found, _ in index.nearest(group, at(degrees), threshold, limit)]


def test_the_nearest_come_first_and_none_below_the_threshold() -> None:
    index = Index(2, 10)
    for key, degrees in (("far", 60), ("near", 10), ("nearer", 5), ("behind", 180)):
        index.add(known(key), at(degrees))
    assert keys(index, 0, threshold=0.9) == ["nearer", "near"]
    assert keys(index, 0, threshold=0.9, limit=1) == ["nearer"]
    ((_, similarity),) = index.nearest("g", at(60), 0.99, 8)
    assert abs(similarity - 1) < 1e-6


def test_another_group_is_never_looked_at() -> None:
    index = Index(2, 10)
    index.add(known("a", "one"), at(0))
    assert (keys(index, 0, group="two"), keys(index, 0, group="one")) == ([], ["a"])
    index.remove("a")
    assert keys(index, 0, group="one") == []


def test_a_key_that_comes_again_is_moved_and_a_free_row_used_again() -> None:
    index = Index(2, 2)
    index.add(known("a"), at(0))
    index.add(known("a"), at(90))
    index.add(known("b"), at(0))
    assert (keys(index, 0), keys(index, 90), len(index)) == (["b"], ["a"], 2)


def test_the_least_recently_used_makes_room() -> None:
    index = Index(2, 2)
    index.add(known("a"), at(0))
    index.add(known("b"), at(0))
    index.used("a")
    index.add(known("c"), at(0))
    assert (sorted(keys(index, 0)), "b" in index) == (["a", "c"], False)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xy"), st.integers(0, 359), st.booleans()), max_size=40))
def test_it_says_what_a_plain_list_says(steps: list[tuple[str, str, int, bool]]) -> None:
    index, plain = Index(2, 5), dict[str, tuple[str, int]]()
    for key, group, degrees, gone in steps:
        plain.pop(key, None)
        if gone:
            index.remove(key)
            continue
        while len(plain) >= 5:
            del plain[next(iter(plain))]
        plain[key] = (group, degrees)
        index.add(known(key, group), at(degrees))
    assert len(index) == len(plain)
    for group in "xy":
        expected = {key for key, (of, degrees) in plain.items() if of == group and np.cos(np.radians(degrees)) > 0.70}
        assert set(keys(index, 0, threshold=0.70, limit=99, group=group)) == expected
