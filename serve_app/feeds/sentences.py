"""Where sentences end, and which of an answer's are worth showing. Pure. Tests: tests/fast/test_feeds_sentences.py."""

from __future__ import annotations

import re

from serve_app.feeds.prompt import SENTENCE_END
from serve_app.feeds.text import WORD, one_line

MAX_SENTENCES = 5
MIN_COPIED = 4  # words of the instructions in a row
# A full stop inside a sentence: after an initial or one of the commonest abbreviations.
INSIDE = re.compile(r"\b(?:[A-Z]|[A-Z]\.[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Inc|Ltd|Co|Corp|No|vs|etc|approx|e\.g|i\.e|z\.B|bzw|ca|Nr)\.$")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each on one line; a line's end is a sentence's, and none ends before a small letter."""
    found: list[str] = []
    for line in text.splitlines():
        start = 0
        for end in SENTENCE_END.finditer(line):
            if INSIDE.search(line[start : end.end()]) or line[end.end() :].lstrip()[:1].islower():
                continue
            found.append(line[start : end.end()])
            start = end.end()
        found.append(line[start:])
    return [sentence for sentence in map(one_line, found) if sentence]


def told_once(answer: str, title: str, template: str, article: str) -> str:
    """The first five sentences of an accepted answer, a line each, without those that say an earlier one again, the title, or for the most
    part the instructions. Leaving them out costs no call. An answer of nothing else stays as it is."""
    asked = _runs(_words(re.sub(r"\{\w+\}", "\n", template))) - _runs(_words(article))
    seen = {_words(title)}
    kept: list[str] = []
    for sentence in sentences(answer):
        own = _words(sentence)
        # The last one may have been cut in the middle of saying it again.
        if own and _copied(own, asked) * 2 <= len(own) and not any(other[: len(own)] == own for other in seen):
            kept.append(sentence)
        seen.add(own)
    return "\n".join(kept[:MAX_SENTENCES]) or answer


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", " ".join(WORD.findall(text)).lower()))


def _runs(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[at : at + MIN_COPIED] for at in range(len(words) - MIN_COPIED + 1)}


def _copied(words: tuple[str, ...], asked: set[tuple[str, ...]]) -> int:
    """How many of these words stand in a run of the instructions."""
    inside = [False] * len(words)
    for at in range(len(words) - MIN_COPIED + 1):
        if words[at : at + MIN_COPIED] in asked:
            inside[at : at + MIN_COPIED] = [True] * MIN_COPIED
    return sum(inside)
