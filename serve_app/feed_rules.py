"""Rules that say which entries of a feed become articles: `field=pattern`, in the manner of Miniflux (https://miniflux.app/docs/rules.html).

An entry that a `block` rule matches is skipped, and so is one that no `keep` rule matches where there are any; the reason names the rule.
Patterns are regular expressions, found anywhere and in any case. Some would take for ever: each may take `TIMEOUT_S` for a text, and is not
asked about the rest of a document where it took longer `MAX_TIMEOUTS` times. What a rule could not say in time skips nothing.
Pure but for the log. Tests: tests/fast/test_feed_rules.py.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

import regex
from pydantic import AfterValidator, Field

log = logging.getLogger(__name__)

FIELDS = ("any", "title", "text", "link", "author", "tag")
MAX_RULE = 500
MAX_RULES = 100  # of one list
TIMEOUT_S = 0.1
MAX_TIMEOUTS = 3


def check_rule(rule: str) -> str:
    """The rule itself, or a ValueError with the remedy."""
    field, found, pattern = rule.partition("=")
    if not found or field not in FIELDS:
        raise ValueError(f"rule {rule[:60]!r} names no field; write one of {', '.join(FIELDS)}, then =, then a regular expression")
    if not pattern or len(rule) > MAX_RULE:
        raise ValueError(f"rule {rule[:60]!r} must have a pattern and at most {MAX_RULE} characters")
    try:
        _compiled(pattern)
    except regex.error as error:
        raise ValueError(
            f"rule {rule[:60]!r}: {error}; write a regular expression, with \\ before characters that are meant as such"
        ) from None
    return rule


Rule = Annotated[str, AfterValidator(check_rule)]
RuleList = Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)]


class Rules:
    """The rules for the entries of one document.

    `keep`: lists of rules, of each of which one must match; an empty list asks nothing. `block`: none of them may.
    """

    def __init__(self, keep: Sequence[Sequence[str]] = (), block: Sequence[str] = ()) -> None:
        self._keep = keep
        self._block = block
        self._timeouts = Counter[str]()

    def refusal(self, entry: Mapping[str, str | Sequence[str]]) -> str | None:
        """Why this entry is skipped; None where it is taken. `entry`: title, text, link, author and tag (a list)."""
        for rule in self._block:
            if self._matches(rule, entry):
                return f"blocked by the rule {rule}"
        for rules in self._keep:
            if rules and all(self._matches(rule, entry) is False for rule in rules):
                return f"kept by none of the rules {' | '.join(rules)}"[:MAX_RULE]
        return None

    def _matches(self, rule: str, entry: Mapping[str, str | Sequence[str]]) -> bool | None:
        """None where it would take too long to say."""
        if self._timeouts[rule] >= MAX_TIMEOUTS:
            return None
        field, _, pattern = rule.partition("=")
        values = [entry[name] for name in FIELDS[1:]] if field == "any" else [entry[field]]
        try:
            return any(_compiled(pattern).search(text, timeout=TIMEOUT_S) for value in values for text in _texts(value))
        except TimeoutError:
            self._timeouts[rule] += 1
            if self._timeouts[rule] == MAX_TIMEOUTS:
                log.warning("the rule %s takes too long, and is not asked about the rest of this document; make it simpler", rule)
            return None


def _texts(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


@lru_cache(maxsize=4 * MAX_RULES)
def _compiled(pattern: str) -> Any:
    return regex.compile(pattern, regex.IGNORECASE)
