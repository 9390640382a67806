"""When two answers say the same."""

from __future__ import annotations

import pytest

from serve_app.cache.similar.compare import same_answer


@pytest.mark.parametrize(
    ("a", "b", "cosine", "same"),
    [
        ("The capital is Lima.", "the capital is Lima", 0.0, True),
        ("It is Lima.", "Lima is the capital.", 0.9, True),
        ("It is Lima.", "It is Quito.", 0.84, False),
        ("It takes 5 days.", "It takes 6 days.", 0.99, False),
        ("It is -5.", "It is 5.", 0.99, False),
        ("Yes, it is safe.", "No, it is not safe.", 0.99, False),
        ("Run `ls -l`.", "Run `ls -a`.", 0.99, False),
        ("Three steps.", "3 steps!", 0.9, True),
        ("Do:\n1. Wash.\n2. Dry.", "Do:\n- Wash.\n- Dry, dry.", 0.9, True),
        ("", "", 1.0, True),
    ],
)
def test_the_measure(a: str, b: str, cosine: float, same: bool) -> None:
    assert same_answer(a, b, cosine, 0.85) is same
    assert same_answer(b, a, cosine, 0.85) is same
