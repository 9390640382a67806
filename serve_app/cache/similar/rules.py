"""Pure: which questions may be looked up by similarity, and which belong together. Tests: tests/fast/test_similar_rules.py."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from serve_app.cache.key import answer_key
from serve_app.messages import Ask, Message
from serve_app.settings_similar import SimilarSettings
from serve_app.store.answers import StoredAnswer


@dataclass(frozen=True, slots=True)
class Found:
    """A stored answer that may stand for the asked one, and the cosine similarity of the two questions."""

    answer: StoredAnswer
    similarity: float


def question_of(ask: Ask) -> str:
    """The text that may be worded in another way: the last user message."""
    return ask.generate.messages[-1].content


def eligible(ask: Ask, settings: SimilarSettings) -> bool:
    """True where an answer may stand for the answer to a question with the same meaning.

    Not for raw prompts, which ask nothing; for articles, whose every word counts; for answers that are drawn by chance without a seed;
    and not where log-probabilities are wanted, which belong to one text of one prompt.
    """
    generate = ask.generate
    asks = bool(generate.messages) and generate.messages[-1].role == "user"
    if not asks or ask.feed_id or not generate.sampling.repeatable or generate.sampling.logprobs is not None:
        return False
    return bool(question_of(ask).strip()) and len(question_of(ask)) <= settings.max_question_chars


def group_key(ask: Ask, fingerprint: str) -> str:
    """64 hex digits of everything that must be equal: the answer's key without the last question's text.

    Whatever the key comes to hold (scope, weights, system prompts, earlier turns, sampling, format), the group holds too.
    """
    generate = ask.generate
    blank = replace(generate, messages=(*generate.messages[:-1], Message("user", "")))
    return answer_key(replace(ask, generate=blank), fingerprint)


def trial_id(model: str, settings: SimilarSettings) -> str:
    """16 hex digits of what a person decides about the threshold. A change of any of it begins a new trial."""
    decided = (model, settings.embedding, settings.threshold, settings.max_false_hit_rate, settings.epoch)
    return hashlib.sha256(repr(decided).encode()).hexdigest()[:16]
