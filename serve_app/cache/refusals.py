"""Refusals that depend on the request alone, remembered for seconds: a client that tries again and again costs the model nothing.

Which ones, and for whom, is decided in rules.py. In memory only, and a bounded number. Tests: tests/fast/test_answers_fresh.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from cachetools import LRUCache

from serve_app.cache.rules import Held, Limits, decide
from serve_app.errors import FrugalError
from serve_app.messages import CachePolicy

MAX_REFUSALS = 1_000  # of some hundred bytes each


class Refusals:
    """By answer key. `now` is Unix time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._errors: LRUCache[str, tuple[FrugalError, float]] = LRUCache(MAX_REFUSALS)

    def find(self, key: str, policy: CachePolicy, ttl_s: float) -> FrugalError | None:
        """The refusal that this question met within the last `ttl_s` seconds, where its policy takes what is stored."""
        known = self._errors.get(key)
        if known is None:
            return None
        error, at = known
        decision = decide(policy, Held(at, failed=True), Limits(ttl_s), self._now(), live=False, shared=True)
        # A copy: an error that is raised again and again collects its tracebacks.
        return copy.copy(error) if ttl_s and decision.state == "hit" else None

    def keep(self, key: str, error: FrugalError) -> None:
        """Remember it."""
        self._errors[key] = error, self._now()

    def clear(self) -> None:
        """Remember nothing."""
        self._errors.clear()
