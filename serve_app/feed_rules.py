"""Rules that say which entries of a feed become articles: `field=pattern`, in the manner of Miniflux (https://miniflux.app/docs/rules.html).

An entry that a `block` rule matches is skipped, and so is one that no `keep` rule matches where there are any; the reason names the rule.
Patterns are regular expressions, found anywhere and in any case. Each may take `TIMEOUT_S` for an entry: some patterns would take for ever.
Pure but for the log. Tests: tests/fast/test_feed_rules.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

import regex
from pydantic import AfterValidator

log = logging.getLogger(__name__)

FIELDS = ("any", "title", "text", "link", "author", "tag")
MAX_RULE = 500
TIMEOUT_S = 0.1


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


def refusal(entry: Mapping[str, str | Sequence[str]], keep: Sequence[Sequence[str]], block: Sequence[str]) -> str | None:
    """Why this entry is skipped; None where it is taken.

    `entry`: title, text, link, author and tag (a list). `keep`: lists of rules, of each of which one must match; an empty list asks
    nothing.
    """
    for rule in block:
        if _matches(rule, entry):
            return f"blocked by the rule {rule}"
    for rules in keep:
        if rules and not any(_matches(rule, entry) for rule in rules):
            return f"kept by none of the rules {' | '.join(rules)}"[:MAX_RULE]
    return None


def _matches(rule: str, entry: Mapping[str, str | Sequence[str]]) -> bool:
    field, _, pattern = rule.partition("=")
    values = [entry[name] for name in FIELDS[1:]] if field == "any" else [entry[field]]
    try:
        return any(_compiled(pattern).search(text, timeout=TIMEOUT_S) for value in values for text in _texts(value))
    except TimeoutError:
        log.warning("the rule %s took too long for an entry, and counts as not matching it; make the pattern simpler", rule)
        return False


def _texts(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    return regex.compile(pattern, regex.IGNORECASE)
