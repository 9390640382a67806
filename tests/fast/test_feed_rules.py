"""Rules for entries: which are taken, which are refused when they are written, and patterns that would take for ever."""

from __future__ import annotations

import pytest

from serve_app.errors import ConfigError
from serve_app.feed_rules import refusal
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
    assert refusal(ENTRY, (), (rule,)) == f"blocked by the rule {rule}"
    assert refusal(ENTRY, ((rule,),), ()) is None


@pytest.mark.parametrize("rule", ["title=python", "title=ada", "tag=rel$", "text=rust"])
def test_elsewhere_it_finds_nothing(rule: str) -> None:
    assert refusal(ENTRY, (), (rule,)) is None
    assert refusal(ENTRY, ((rule,),), ()) == f"kept by none of the rules {rule}"


def test_of_every_list_that_is_there_one_rule_must_match_and_block_goes_first() -> None:
    assert refusal(ENTRY, (("title=python", "title=rust"), ("author=ada",)), ()) is None
    assert refusal(ENTRY, (("title=rust",), ("author=bob", "tag=x")), ()) == "kept by none of the rules author=bob | tag=x"
    assert refusal(ENTRY, ((), ()), ()) is None
    assert refusal(ENTRY, (("title=rust",),), ("author=ada",)) == "blocked by the rule author=ada"


def test_a_pattern_that_would_take_for_ever_counts_as_not_matching(caplog: pytest.LogCaptureFixture) -> None:
    entry = {**ENTRY, "title": "a" * 60 + "!"}
    assert refusal(entry, (), ("title=^(a|aa|a?a)+$",)) is None
    assert "took too long" in caplog.text


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
