"""When an answer may be used again: pure rules, which know no storage, no event loop, and no clock but the time they are given.

The words are those of RFC 9111 (https://www.rfc-editor.org/rfc/rfc9111, sections 4.2 and 5.2.1) and RFC 5861 (stale-while-revalidate).
`answers.py` (AnswerCache) and `replays.py` (Ingress) act on what is decided here. Tests: tests/fast/test_cache_rules.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve_app.errors import BadRequest, FrugalError
from serve_app.messages import CachePolicy
from serve_app.settings_cache import CacheSettings

State = Literal["hit", "stale", "join", "lead", "bypass", "refuse"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings allow, in seconds: the time to live, and how long beyond it an answer is served while a new one is made
    (`revalidate_s`), or at the wish of a request that accepts a stale one (`max_stale_s`)."""

    ttl_s: float
    revalidate_s: float = 0.0
    max_stale_s: float = 0.0

    @classmethod
    def of(cls, settings: CacheSettings, model: str) -> Limits:
        """Those of one model."""
        ttl_s = settings.ttl_s_by_model.get(model, settings.ttl_s)
        return cls(ttl_s, settings.stale_while_revalidate_s, max(settings.max_stale_s, settings.stale_while_revalidate_s))


@dataclass(frozen=True, slots=True)
class Held:
    """What is held under a key, as far as it matters here. `ttl_s`: its own time to live, where its request asked for one; the shorter of
    it and the limit holds. `failed`: it is the refusal that this question met before."""

    created_at: float
    ttl_s: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What a caller gets.

    hit: what is held, which is fresh. stale: what is held, which is beyond its time to live; with `refresh` a new one is to be made in the
    background. join: the answer that is being made. lead: a new one, which others may join. bypass: a new one of its own, whatever there
    is. refuse: nothing, because it wants a stored answer only. `age_s`: of what is held, where that is served.
    """

    state: State
    age_s: float | None = None
    refresh: bool = False


def decide(policy: CachePolicy, held: Held | None, limits: Limits, now: float, *, live: bool, shared: bool) -> Decision:
    """What this caller gets at the Unix time `now`. `live`: an answer to its question is being made. `shared`: this kind of answer may be
    reused at all, see `may_share`."""
    if not shared or policy.no_cache:
        return Decision("refuse" if policy.only_if_cached else "bypass")
    if held is not None and wants_stored(policy, shared=shared):
        found = _usable(policy, held, limits, now, live=live)
        if found is not None:
            return found
    if policy.only_if_cached:  # one in the making is not stored yet, and would cost more if its other callers left
        return Decision("refuse")
    return Decision("join" if live else "lead")


def may_share(policy: CachePolicy, *, repeatable: bool, settings: CacheSettings) -> bool:
    """Whether one caller's answer may be another's: a second run would give the same, or somebody said that it need not."""
    return repeatable or policy.sampled_always or settings.sampled == "always"


def may_store(policy: CachePolicy, *, shared: bool) -> bool:
    """Whether the answer that is made for this caller may be kept."""
    return shared and not policy.no_store


def wants_stored(policy: CachePolicy, *, shared: bool) -> bool:
    """Whether there is any use in looking for a stored answer. max-age=0 wants none, also where one is of this very moment."""
    return shared and not policy.no_cache and policy.max_age_s != 0


def kept_s(settings: CacheSettings) -> tuple[float, float]:
    """The longest time to live of any model, and for how long beyond their time to live answers are of use."""
    return max([settings.ttl_s, *settings.ttl_s_by_model.values()]), max(settings.max_stale_s, settings.stale_while_revalidate_s)


def fresh_s(held: Held, limits: Limits, now: float) -> float:
    """Seconds until it is beyond its time to live; negative since then."""
    return _ttl_s(held, limits) - _age_s(held, now)


def shortest(one: float | None, other: float | None) -> float | None:
    """The time to live where two wish for one: an answer is never older than anybody said who had it made."""
    return min((ttl_s for ttl_s in (one, other) if ttl_s is not None), default=None)


def check_ttl(policy: CachePolicy, limits: Limits) -> None:
    """A request may shorten the time to live.

    Raises:
        BadRequest: it would lengthen it.
    """
    if policy.ttl_s is not None and policy.ttl_s > limits.ttl_s:
        said = f"cache.ttl: answers are kept for {limits.ttl_s:g} s here; send at most that, or raise ttl_s of AnswerCache"
        raise BadRequest(said, param="cache.ttl")


def is_lasting(error: FrugalError) -> bool:
    """Whether the same question will be refused again: the fault is in the request alone, as in one that is too long for the model.

    Not where the model is full, changed, gone or broken, and not where somebody gave up: all that passes.
    """
    return isinstance(error, BadRequest)


def _usable(policy: CachePolicy, held: Held, limits: Limits, now: float, *, live: bool) -> Decision | None:
    age_s, left_s = _age_s(held, now), fresh_s(held, limits, now)
    if policy.max_age_s is not None and age_s > policy.max_age_s:
        return None
    if left_s >= (policy.min_fresh_s or 0.0):
        return Decision("hit", age_s)
    if left_s >= 0 or policy.min_fresh_s is not None or held.failed:
        return None
    late_s, can_refresh = -left_s, not policy.no_store
    if policy.max_stale_s is not None:
        allowed_s = min(policy.max_stale_s, limits.max_stale_s)
    elif policy.max_age_s is not None or not can_refresh:  # who says max-age wants nothing stale unless it says so, too (5.2.1.1)
        allowed_s = 0.0
    else:
        allowed_s = limits.revalidate_s
    if late_s > allowed_s:
        return None
    return Decision("stale", age_s, refresh=can_refresh and not live and late_s <= limits.revalidate_s)


def _age_s(held: Held, now: float) -> float:
    return max(0.0, now - held.created_at)  # another machine's clock may be ahead


def _ttl_s(held: Held, limits: Limits) -> float:
    return limits.ttl_s if held.ttl_s is None else min(held.ttl_s, limits.ttl_s)
