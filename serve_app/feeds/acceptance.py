"""Whether an answer is a summary: not empty, no loop, no refusal, not the prompt again. Pure.

A small model fails in these ways now and then, and another draw often does not. Tests: tests/fast/test_feeds_acceptance.py.
"""

from __future__ import annotations

import re
from collections import Counter

from serve_app.feeds.text import WORD, one_line

LOOP_WORDS, LOOP_CHARS = 6, 12  # of a run that is a loop when it comes LOOP_TIMES; characters where words have no spaces
LOOP_TIMES = 3
MIN_COPIED = 4  # words of a sentence of the prompt; shorter ones may be anybody's
SPACED = re.compile(r"[^\W\d_]{2,}")
REFUSAL = re.compile(
    r"[\W_]*(?:"
    r"(?:i['’]?m|i am) (?:sorry|unable|not able|an? (?:ai|language model))|sorry, (?:but )?i|i (?:cannot|can['’]?t|can not|don['’]t have)"
    r"|as an? (?:ai|artificial|large language|language model)|unfortunately,? i\b"
    r"|es tut mir leid|als (?:eine )?ki\b|ich kann (?:diesen|den|dir|ihnen|leider|nicht)"
    r"|je suis désolé|en tant qu['’](?:ia|intelligence)|lo siento|como (?:una? )?(?:ia|modelo)|mi dispiace|desculpe|sinto muito"
    r")",
    re.IGNORECASE,
)
OPENING_WORDS = 4  # of the answer: an article that begins like a refusal is quoted, not refused


def objection(answer: str, template: str, article: str) -> str | None:
    """Why this answer is no summary of the article, or None if it is one. `template` is the prompt's."""
    if not answer.strip():
        return "the model answered nothing"
    if not any(char.isalnum() for char in answer):
        return f"the model answered only {one_line(answer)[:20]!r}"
    if REFUSAL.match(answer) and _opening(answer) not in _flat(article):
        return f"the model refused: {one_line(answer)[:80]!r}"
    if copied := _copied(answer, template, article):
        return f"the model repeated the prompt: {copied[:80]!r}"
    if loop := _loop(answer, article):
        return f"the model went round in circles: {loop[:80]!r}"
    return None


def _opening(answer: str) -> str:
    return " ".join(_flat(answer).split()[:OPENING_WORDS])


def _copied(answer: str, template: str, article: str) -> str | None:
    """A sentence of the template that stands in the answer, all but its first or last word at least, and not in the article."""
    said, told = _flat(answer), _flat(article)
    for sentence in re.split(r"(?<=[.!?:])\s|\n|\{\w+\}", template):
        words = _flat(sentence).split()
        size = max(MIN_COPIED, len(words) - 1)  # small models change a word
        for run in (" ".join(words[at : at + size]) for at in range(len(words) - size + 1)):
            if f" {run} " in f" {said} " and run not in told:
                return one_line(sentence)
    return None


def _loop(answer: str, article: str) -> str | None:
    """A run of words that comes LOOP_TIMES, and not as often in the article."""
    words = WORD.findall(answer.lower())
    size = LOOP_WORDS if len(SPACED.findall(answer)) * 2 >= len(words) else LOOP_CHARS
    runs = Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))
    run, times = max(runs.items(), key=lambda pair: pair[1], default=((), 0))
    if times < LOOP_TIMES:
        return None
    said = " ".join(run)
    return None if " ".join(WORD.findall(article.lower())).count(said) >= times else said


def _flat(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
