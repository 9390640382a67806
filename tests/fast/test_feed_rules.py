"""Rules for entries: which are taken, which are refused when they are written, and patterns that would take for ever."""

from __future__ import annotations

import pytest

from serve_app.errors import ConfigError
from serve_app.feed_rules import MAX_TIMEOUTS, Rules
from serve_app.settings_feeds import FeedOptions, FeedsSettings

ENTRY = {
    "title": "Rust 2.0 is out",
    "text": "The compiler is faster.",
    "link": "https://h/rust",
    "author": "Ada",
    "tag": ("Releases", "PL"),
}
MATCHING = ["title=rust", "title=^Rust \\d", "text=FASTER", "link=/rust$", "author=^ada$", "tag=^releases$", "any=ada", "any=pl"]


@pytest.mark.parametrize("rule", MATCHING)
def test_a_rule_finds_its_pattern_in_its_field_in_any_case(rule: str) -> None:
    assert Rules((), (rule,)).refusal(ENTRY) == f"blocked by the rule {rule}"
    assert Rules(((rule,),), ()).refusal(ENTRY) is None


@pytest.mark.parametrize("rule", ["title=python", "title=ada", "tag=rel$", "text=rust"])
def test_elsewhere_it_finds_nothing(rule: str) -> None:
    assert Rules((), (rule,)).refusal(ENTRY) is None
    assert Rules(((rule,),), ()).refusal(ENTRY) == f"kept by none of the rules {rule}"


def test_of_every_list_that_is_there_one_rule_must_match_and_block_goes_first() -> None:
    assert Rules((("title=python", "title=rust"), ("author=ada",)), ()).refusal(ENTRY) is None
    assert Rules((("title=rust",), ("author=bob", "tag=x")), ()).refusal(ENTRY) == "kept by none of the rules author=bob | tag=x"
    assert Rules(((), ()), ()).refusal(ENTRY) is None
    assert Rules((("title=rust",),), ("author=ada",)).refusal(ENTRY) == "blocked by the rule author=ada"


SLOW = "title=^(a|aa|a?a)+$"


@pytest.mark.parametrize("rules", [Rules((), (SLOW,)), Rules(((SLOW,),)), Rules((("author=bob", SLOW),))], ids=["block", "keep", "beside"])
def test_what_a_rule_cannot_say_in_time_loses_no_entry_and_is_soon_not_asked_any_more(
    rules: Rules, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.feed_rules.TIMEOUT_S", 0.001)
    entry = {**ENTRY, "title": "a" * 60 + "!"}
    assert [rules.refusal(entry) for _ in range(1000)] == [None] * 1000
    assert caplog.text.count("takes too long") == 1
    assert rules._timeouts == {SLOW: MAX_TIMEOUTS}


def test_a_slow_rule_leaves_the_others_their_say() -> None:
    entry = {**ENTRY, "title": "a" * 60 + "!"}
    assert Rules(((SLOW,),), (SLOW, "author=ada")).refusal(entry) == "blocked by the rule author=ada"
    assert Rules(((SLOW,), ("author=bob",))).refusal(entry) == "kept by none of the rules author=bob"


@pytest.mark.parametrize("where", [FeedsSettings, FeedOptions])
def test_a_list_has_its_limit(where: type[FeedsSettings] | type[FeedOptions]) -> None:
    with pytest.raises(ConfigError, match="100"):
        where.load({"block": [f"title={number}" for number in range(101)]})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("rust", "names no field; write one of any, title"),
        ("headline=rust", "names no field"),
        ("title=", "must have a pattern"),
        ("title=" + "x" * 500, "at most 500 characters"),
        ("title=(", "write a regular expression"),
    ],
)
@pytest.mark.parametrize("where", [FeedsSettings, FeedOptions])
def test_a_rule_that_is_none_is_refused_when_it_is_written(rule: str, words: str, where: type[FeedsSettings] | type[FeedOptions]) -> None:
    for field in ("keep", "block"):
        with pytest.raises(ConfigError, match=words) as error:
            where.load({field: ["title=ok", rule]})
        assert f"{field}[1]" in str(error.value)
