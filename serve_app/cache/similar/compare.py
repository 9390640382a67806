"""Pure: does a new answer say the same as the stored one that stood for it? The measure of the shadow samples.

The same text, but for case, spaces and punctuation, is the same answer. Otherwise the two must be close as vectors, hold the same numbers
and literals (code, addresses, quotations), and both or neither deny. It is strict: two right answers in different words often count as
different, so the rate that is measured is rather too high than too low. Tests: tests/fast/test_similar_compare.py.
"""

from __future__ import annotations

import re

from serve_app.cache.similar import words
from serve_app.cache.similar.gate import LITERAL, reading

MARKS = re.compile(r"^\s*(?:\d{1,3}[.)]|[-*•])\s+", re.MULTILINE)  # the numbers of a list say nothing
PUNCTUATION = re.compile(r"[\W_]+")


def same_text(a: str, b: str) -> bool:
    """Equal but for case, spaces and punctuation; numbers, with their signs, and literals must be equal as they stand."""
    return _plain(a) == _plain(b) and _facts(a) == _facts(b)


def same_answer(a: str, b: str, cosine: float, threshold: float) -> bool:
    """True where both say the same, as far as this measure can see. `cosine`: of the two as vectors."""
    return same_text(a, b) or (cosine >= threshold and _facts(a) == _facts(b))


def _plain(text: str) -> str:
    return PUNCTUATION.sub(" ", text.casefold()).strip()


def _facts(text: str) -> tuple[frozenset[str], bool]:
    """Numbers and literals, and whether it denies something."""
    said = [word for sentence in reading(MARKS.sub("", text)) for word in sentence.words]
    hard = frozenset(word for word in said if word.startswith(LITERAL) or word[:1].isdigit() or word[:1] in "+-")
    return hard, any(word in words.NEGATIONS for word in said)
