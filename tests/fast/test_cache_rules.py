"""The rules in a table that reads as RFC 9111 and RFC 5861 do, and against an oracle that says the same the other way round."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.cache.rules import (
    Decision,
    Held,
    Limits,
    State,
    check_ttl,
    decide,
    fresh_s,
    is_lasting,
    kept_s,
    may_share,
    may_store,
    shortest,
    wants_stored,
)
from serve_app.errors import BadRequest, ContextLengthExceeded, FrugalError, ModelChanged, Overloaded, Stopping
from serve_app.messages import CachePolicy
from serve_app.settings_cache import CacheSettings

NOW = 1_000_000.0
LIMITS = Limits(ttl_s=100, revalidate_s=20, max_stale_s=50)
NO_WINDOW = replace(LIMITS, revalidate_s=0)
FRESH, LATE, VERY_LATE = Held(NOW - 60), Held(NOW - 110), Held(NOW - 140)
ANY = CachePolicy()


def decided(policy: CachePolicy, held: Held | None, limits: Limits = LIMITS, *, live: bool = False, shared: bool = True) -> Decision:
    return decide(policy, held, limits, NOW, live=live, shared=shared)


@pytest.mark.parametrize(
    ("policy", "held", "live", "decision"),
    [
        (ANY, None, False, Decision("lead")),
        (ANY, None, True, Decision("join")),
        (ANY, FRESH, False, Decision("hit", 60)),
        (ANY, FRESH, True, Decision("hit", 60)),
        (ANY, Held(NOW - 100), False, Decision("hit", 100)),
        (ANY, Held(NOW + 5), False, Decision("hit", 0)),  # another machine's clock
        (ANY, LATE, False, Decision("stale", 110, refresh=True)),
        (ANY, LATE, True, Decision("stale", 110)),  # the new one is being made already
        (ANY, Held(NOW - 120), False, Decision("stale", 120, refresh=True)),
        (ANY, VERY_LATE, False, Decision("lead")),
        (ANY, VERY_LATE, True, Decision("join")),
        (ANY, Held(NOW - 60, ttl_s=50), False, Decision("stale", 60, refresh=True)),
        (ANY, Held(NOW - 60, ttl_s=30), False, Decision("lead")),
        (ANY, Held(NOW - 110, ttl_s=500), False, Decision("stale", 110, refresh=True)),  # its own time to live never lengthens
        (ANY, Held(NOW - 60, failed=True), False, Decision("hit", 60)),
        (ANY, Held(NOW - 110, failed=True), False, Decision("lead")),  # a refusal is never stale
        (CachePolicy(no_cache=True), FRESH, True, Decision("bypass")),
        (CachePolicy(no_store=True), FRESH, False, Decision("hit", 60)),
        (CachePolicy(no_store=True), LATE, False, Decision("lead")),  # nothing may be stored for it, so nothing is refreshed
        (CachePolicy(max_age_s=60), FRESH, False, Decision("hit", 60)),
        (CachePolicy(max_age_s=59), FRESH, False, Decision("lead")),
        (CachePolicy(max_age_s=59), FRESH, True, Decision("join")),
        (CachePolicy(max_age_s=0), FRESH, True, Decision("join")),
        (CachePolicy(max_age_s=0), Held(NOW), False, Decision("lead")),
        (CachePolicy(max_age_s=500), LATE, False, Decision("lead")),  # 5.2.1.1: no stale answer unless it says max-stale, too
        (CachePolicy(max_age_s=500, max_stale_s=10), LATE, False, Decision("stale", 110, refresh=True)),
        (CachePolicy(max_age_s=109, max_stale_s=10), LATE, False, Decision("lead")),
        (CachePolicy(max_stale_s=40), VERY_LATE, False, Decision("stale", 140)),  # beyond the window nobody asked for a new one
        (CachePolicy(max_stale_s=39), VERY_LATE, False, Decision("lead")),
        (CachePolicy(max_stale_s=5), LATE, False, Decision("lead")),  # stricter than the window
        (CachePolicy(max_stale_s=2.0**31), Held(NOW - 150), False, Decision("stale", 150)),
        (CachePolicy(max_stale_s=2.0**31), Held(NOW - 151), False, Decision("lead")),  # the server keeps none that long
        (CachePolicy(max_stale_s=40, no_store=True), LATE, False, Decision("stale", 110)),
        (CachePolicy(min_fresh_s=40), FRESH, False, Decision("hit", 60)),
        (CachePolicy(min_fresh_s=41), FRESH, False, Decision("lead")),
        (CachePolicy(min_fresh_s=0), LATE, False, Decision("lead")),
        (CachePolicy(only_if_cached=True), FRESH, False, Decision("hit", 60)),
        (CachePolicy(only_if_cached=True), LATE, False, Decision("stale", 110, refresh=True)),
        (CachePolicy(only_if_cached=True), VERY_LATE, False, Decision("refuse")),
        (CachePolicy(only_if_cached=True), None, True, Decision("refuse")),  # what is in the making is not stored
        (CachePolicy(only_if_cached=True, no_cache=True), FRESH, False, Decision("refuse")),
    ],
)
def test_what_a_caller_gets(policy: CachePolicy, held: Held | None, live: bool, decision: Decision) -> None:
    assert decided(policy, held, live=live) == decision


def test_without_a_window_a_late_answer_is_made_again_and_stale_is_for_those_who_ask_for_it() -> None:
    assert decided(ANY, LATE, NO_WINDOW) == Decision("lead")
    assert decided(CachePolicy(max_stale_s=10), LATE, NO_WINDOW) == Decision("stale", 110)


def test_what_may_not_be_shared_goes_past_the_cache() -> None:
    assert decided(ANY, FRESH, live=True, shared=False) == Decision("bypass")
    assert decided(CachePolicy(only_if_cached=True), FRESH, shared=False) == Decision("refuse")


SECONDS = st.integers(0, 30).map(float)
MAYBE = st.none() | SECONDS
POLICIES = st.builds(
    CachePolicy,
    no_cache=st.booleans(),
    no_store=st.booleans(),
    max_age_s=MAYBE,
    max_stale_s=MAYBE,
    min_fresh_s=MAYBE,
    only_if_cached=st.booleans(),
)
HELD = st.none() | st.builds(Held, SECONDS.map(lambda age: NOW - age), MAYBE, st.booleans())
LIMIT = st.builds(lambda ttl, window, more: Limits(ttl, window, window + more), SECONDS, SECONDS, SECONDS)


def states_that_may_be(policy: CachePolicy, held: Held | None, limits: Limits, *, live: bool, shared: bool) -> set[State]:
    """The oracle: strikes out what each single rule forbids; what is served from the store goes before what is made."""
    left: set[State] = {"hit", "stale", "join", "lead", "bypass", "refuse"}
    left -= {"lead"} if live else {"join"}
    left -= {"bypass", "lead", "join"} if policy.only_if_cached else {"refuse"}
    if policy.no_cache or not shared:
        left -= {"hit", "stale", "join", "lead"}
    else:
        left -= {"bypass"}
    if held is None:
        return left - {"hit", "stale"}
    age = NOW - held.created_at
    late = age - min(limits.ttl_s, limits.ttl_s if held.ttl_s is None else held.ttl_s)
    if late > 0:
        left -= {"hit"}
    else:
        left -= {"stale"}
    if policy.max_age_s == 0 or (policy.max_age_s is not None and age > policy.max_age_s):
        left -= {"hit", "stale"}
    if policy.min_fresh_s is not None:
        left -= {"stale"} | ({"hit"} if late > -policy.min_fresh_s else set())
    if held.failed or late > limits.max_stale_s:
        left -= {"stale"}
    if policy.max_stale_s is None and (policy.max_age_s is not None or policy.no_store or late > limits.revalidate_s):
        left -= {"stale"}
    if policy.max_stale_s is not None and late > policy.max_stale_s:
        left -= {"stale"}
    return left & {"hit", "stale"} or left


@given(POLICIES, HELD, LIMIT, st.booleans(), st.booleans())
@example(CachePolicy(max_age_s=5.0, max_stale_s=3.0), Held(NOW - 5), Limits(4, 1, 9), False, True)
def test_the_rules_leave_one_state_and_the_oracle_the_same(
    policy: CachePolicy, held: Held | None, limits: Limits, live: bool, shared: bool
) -> None:
    decision = decide(policy, held, limits, NOW, live=live, shared=shared)
    assert {decision.state} == states_that_may_be(policy, held, limits, live=live, shared=shared)
    served = decision.state in ("hit", "stale")
    assert decision.age_s == (NOW - held.created_at if served and held is not None else None)
    if decision.refresh:
        assert held is not None
        assert decision.state == "stale"
        assert not live
        assert may_store(policy, shared=shared)
        assert -limits.revalidate_s <= fresh_s(held, limits, NOW) < 0


@given(POLICIES, HELD, st.booleans())
def test_who_wants_nothing_stored_gets_nothing_stored(policy: CachePolicy, held: Held | None, shared: bool) -> None:
    if not wants_stored(policy, shared=shared):
        assert decided(policy, held, shared=shared).state not in ("hit", "stale")


@pytest.mark.parametrize(
    ("policy", "repeatable", "setting", "shares"),
    [
        (ANY, True, "never", True),
        (ANY, False, "never", False),
        (ANY, False, "always", True),
        (CachePolicy(sampled_always=True), False, "never", True),
    ],
)
def test_what_may_be_shared(policy: CachePolicy, repeatable: bool, setting: str, shares: bool) -> None:
    settings = CacheSettings.load({"sampled": setting})
    assert may_share(policy, repeatable=repeatable, settings=settings) == shares
    assert may_store(policy, shared=shares) == shares
    assert not may_store(replace(policy, no_store=True), shared=shares)


def test_each_model_has_its_own_time_to_live() -> None:
    settings = CacheSettings.load({"ttl_s": 60, "ttl_s_by_model": {"news": 5.0}, "stale_while_revalidate_s": 7, "max_stale_s": 3})
    assert Limits.of(settings, "tiny") == Limits(60, 7, 7)
    assert Limits.of(settings, "news") == Limits(5, 7, 7)
    assert kept_s(settings) == (60, 7)
    assert kept_s(CacheSettings.load({"ttl_s": 60, "ttl_s_by_model": {"slow": 90.0}})) == (90, 3600)


def test_a_request_may_shorten_the_time_to_live_and_not_lengthen_it() -> None:
    check_ttl(CachePolicy(ttl_s=100), LIMITS)
    with pytest.raises(BadRequest, match="answers are kept for 100 s here; send at most that") as caught:
        check_ttl(CachePolicy(ttl_s=101), LIMITS)
    assert caught.value.param == "cache.ttl"
    assert [shortest(None, None), shortest(3, None), shortest(None, 4), shortest(3, 4)] == [None, 3, 4, 3]


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (BadRequest("a field"), True),
        (ContextLengthExceeded("too long"), True),
        (Overloaded("full"), False),
        (ModelChanged("other weights"), False),
        (Stopping(), False),
        (FrugalError("a bug"), False),
    ],
)
def test_only_a_refusal_that_depends_on_the_request_alone_is_remembered(error: FrugalError, lasting: bool) -> None:
    assert is_lasting(error) == lasting
