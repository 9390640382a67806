"""What a fetched feed changes and when to look again, from data and a time alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.feeds.decide import Decision, Hints, article_id, decide, next_check, next_try, rhythm
from serve_app.feeds.parse import Entry, ParsedFeed
from serve_app.feeds.text import text_hash
from serve_app.messages_feeds import Feed
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.records import KnownArticle, Rename, Rhythm

SETTINGS = FeedsSettings(poll_interval_s=3600.0, min_interval_s=900.0, max_interval_s=86_400.0, min_words=3, max_new_per_check=2)
NEW_FEED = Feed("f", "https://feed.test/", "config", "new", "", 0.0, 0.0)
OLD_FEED = Feed("f", "https://feed.test/", "config", "ok", "", 0.0, 0.0, last_success_at=1.0)


def entry(guid: str, published_at: float | None = None, text: str = "more than three words") -> Entry:
    return Entry(guid, "", guid.upper(), "", published_at, text, text_hash(guid.upper(), text))


def run(feed: Feed, *entries: Entry, known: dict[str, KnownArticle] | None = None) -> Decision:
    return decide(feed, known or {}, ParsedFeed("T", None, entries), 100.0, SETTINGS)


def known(of: Entry, **values: object) -> KnownArticle:
    return KnownArticle(**{"text_hash": of.text_hash, "state": "done", "first_seen_at": 50.0, **values})  # type: ignore[arg-type]


def states(decision: Decision) -> list[tuple[str, str, str | None]]:
    return [(article.guid, article.state, article.reason) for article in decision.new]


@pytest.mark.parametrize("feed", [NEW_FEED, OLD_FEED], ids=["first check", "later check"])
def test_of_one_check_only_the_newest_become_work_and_nothing_is_lost(feed: Feed) -> None:
    decision = run(feed, entry("new", 30.0), entry("newest", 40.0), entry("old", 10.0), entry("older", 20.0))
    reason = "older than the newest 2 of one check (max_new_per_check)"
    assert states(decision) == [
        ("old", "skipped", reason),
        ("older", "skipped", reason),
        ("new", "pending", None),
        ("newest", "pending", None),
    ]


def test_what_the_rules_of_all_feeds_or_of_this_one_refuse_is_skipped_with_the_rule_and_costs_no_room() -> None:
    feed = replace(NEW_FEED, options={"block": ["tag=^ads$"], "keep": ["title=[a-z]"]})
    entries = [replace(entry("a", 4.0), tags=("Ads",)), entry("b", 3.0), entry("c", 2.0), entry("1", 1.0)]
    settings = SETTINGS.model_copy(update={"block": ("title=^b",)})
    decision = decide(feed, {}, ParsedFeed("T", None, tuple(entries)), 100.0, settings)
    assert states(decision) == [
        ("1", "skipped", "kept by none of the rules title=[a-z]"),
        ("c", "pending", None),
        ("b", "skipped", "blocked by the rule title=^b"),
        ("a", "skipped", "blocked by the rule tag=^ads$"),
    ]


def test_edits_get_the_room_that_new_entries_leave_and_the_others_wait_for_a_later_check() -> None:
    stored = {guid: known(entry(guid)) for guid in ("a", "b", "c")}
    edits = [entry(guid, date, "a text that was edited since") for guid, date in (("c", 30.0), ("b", 20.0), ("a", 10.0))]
    first = run(OLD_FEED, entry("new", 40.0), *edits, known=stored)
    assert ([article.guid for article in first.new], [article.guid for article in first.changed]) == (["new"], ["c"])
    assert first.num_waiting == 2
    stored |= {article.guid: KnownArticle(article.text_hash, "done", 50.0) for article in (*first.new, *first.changed)}
    second = run(OLD_FEED, entry("new", 40.0), *edits, known=stored)
    assert ([article.guid for article in second.new], [article.guid for article in second.changed]) == ([], ["a", "b"])
    assert second.num_waiting == 0


def test_new_entries_become_work_oldest_first() -> None:
    decision = run(OLD_FEED, entry("b"), entry("a", 20.0), known={})
    assert states(decision) == [("a", "pending", None), ("b", "pending", None)]


def test_a_short_article_is_skipped_with_the_count() -> None:
    assert states(run(OLD_FEED, entry("a", text="two words"), entry("b", text=""), entry("c", text="one"))) == [
        ("c", "skipped", "only 1 word"),
        ("b", "skipped", "only 0 words"),
        ("a", "skipped", "only 2 words"),
    ]


@pytest.mark.parametrize("text", ["ส" * 18, "x" * 18, "two wordswordswords"])
def test_a_text_without_spaces_is_long_enough_by_its_characters(text: str) -> None:
    assert states(run(OLD_FEED, entry("a", text=text))) == [("a", "pending", None)]


def test_only_another_text_makes_an_article_change() -> None:
    old, same = entry("a", text="the text as it was"), entry("b")
    decision = run(OLD_FEED, entry("a", text="the text as it is"), entry("b", 99.0), known={"a": known(old), "b": known(same)})
    assert decision.new == ()
    (changed,) = decision.changed
    assert (changed.guid, changed.state, changed.attempts, changed.next_try_at, changed.first_seen_at, changed.updated_at) == (
        "a",
        "pending",
        0,
        None,
        50.0,
        100.0,
    )


def test_an_article_under_another_guid_is_no_new_one() -> None:
    old = entry("old", 10.0)
    stored = {"old": known(old, id="i", link="https://x.test/old", published_at=10.0)}
    moved = replace(old, guid="new", link="https://x.test/new")
    assert run(OLD_FEED, moved, known=stored) == Decision(renamed=(Rename("i", "new", "https://x.test/new"),))
    assert run(OLD_FEED, replace(moved, published_at=None), known=stored).renamed
    both = run(OLD_FEED, old, moved, known=stored)
    assert (states(both), both.renamed) == ([("new", "pending", None)], ()), "while the old one is in the feed, it is another one"
    for other in (
        replace(moved, published_at=10.0 + 2 * 86_400),
        replace(moved, text_hash="another"),
        replace(moved, text="two words"),
    ):
        decision = run(OLD_FEED, other, known=stored)
        assert (len(decision.new), decision.renamed) == (1, ())


def test_an_edit_of_an_article_that_was_renamed_changes_that_one() -> None:
    (changed,) = run(OLD_FEED, entry("a", text="now it has another text"), known={"a": known(entry("a"), id="i")}).changed
    assert changed.id == "i"


def test_of_two_entries_with_a_vanished_text_one_is_that_article() -> None:
    stored = {"old": known(entry("old"), id="i")}
    twins = [replace(entry("old"), guid=guid) for guid in ("a", "b")]
    decision = run(OLD_FEED, *twins, known=stored)
    assert (len(decision.renamed), [article.guid for article in decision.new]) == (1, ["a"])


def test_a_new_link_is_kept_and_costs_nothing() -> None:
    stored = {"a": known(entry("a"), id="i", link="https://x.test/1")}
    assert run(OLD_FEED, replace(entry("a"), link="https://x.test/2"), known=stored) == Decision(
        renamed=(Rename("i", "a", "https://x.test/2"),)
    )
    assert run(OLD_FEED, entry("a"), known=stored) == Decision()


def test_a_guid_that_a_renamed_article_once_had_makes_an_article_of_its_own() -> None:
    own = article_id("f", "a")
    parsed = ParsedFeed("T", None, (entry("a"), entry("b")))
    first, second = decide(OLD_FEED, {}, parsed, 100.0, SETTINGS, taken={own}).new
    assert {first.guid: first.id == article_id("f", first.guid), second.guid: second.id == article_id("f", second.guid)} == {
        "a": False,
        "b": True,
    }


def test_an_edit_makes_no_work_of_an_article_that_was_too_old() -> None:
    old = known(entry("a"), state="skipped", reason="older than the newest 2 of one check (max_new_per_check)")
    short = known(entry("b"), state="skipped", reason="only 1 word")
    decision = run(
        OLD_FEED, entry("a", text="now it has another text"), entry("b", text="now it is long enough"), known={"a": old, "b": short}
    )
    assert [(article.guid, article.state) for article in decision.changed] == [("b", "pending"), ("a", "skipped")]


@pytest.mark.parametrize(
    ("hints", "num_errors", "wait_s"),
    [
        (Hints(), 0, 3600),
        (Hints(5.0, rhythm=Rhythm(60.0)), 0, 3600),
        (Hints(rhythm=Rhythm(7200.0)), 0, 7200),
        (Hints(9000.0, rhythm=Rhythm(7200.0)), 0, 9000),
        (Hints(max_age_s=1e9), 0, 86_400),
        (Hints(rhythm=Rhythm(entry_gap_s=36_000.0, newest_at=900.0)), 0, 3600),
        (Hints(rhythm=Rhythm(entry_gap_s=72_000.0, newest_at=900.0)), 0, 7200),
        (Hints(rhythm=Rhythm(entry_gap_s=60.0, newest_at=900.0)), 0, 900),
        (Hints(rhythm=Rhythm(entry_gap_s=60.0, newest_at=-99_000.0)), 0, 10_000),
        (Hints(rhythm=Rhythm(entry_gap_s=1e9, newest_at=900.0)), 0, 86_400),
        (Hints(rhythm=Rhythm(entry_gap_s=72_000.0, newest_at=900.0)), 1, 3600),
        (Hints(rhythm=Rhythm(skips="h1")), 0, 6200),
        (Hints(rhythm=Rhythm(skips="d3 d4")), 0, 86_400),
        (Hints(is_pushed=True), 0, 86_400),
        (Hints(), 1, 3600),
        (Hints(), 2, 7200),
        (Hints(retry_after_s=10_000.0), 2, 10_000),
        (Hints(), 4, 28_800),
        (Hints(), 10_000, 86_400),
    ],
)
def test_the_next_check(hints: Hints, num_errors: int, wait_s: float) -> None:
    assert next_check(hints, num_errors, 1000.0, SETTINGS, 0.0) == 1000.0 + wait_s
    assert 1000.0 + wait_s <= next_check(hints, num_errors, 1000.0, SETTINGS, 1.0) <= 1000.0 + min(1.25 * wait_s, 86_400)


def test_the_rhythm_is_that_of_the_newest_entries_that_have_dates_of_the_past() -> None:
    dated = [entry(str(number), number * 10.0) for number in range(1, 9)]
    parsed = ParsedFeed("T", 60.0, (*dated, entry("none"), entry("future", 1e9)), skips="h1")
    assert rhythm(parsed, 100.0) == Rhythm(60.0, "h1", 10.0, 80.0)
    assert rhythm(ParsedFeed("T", None, (entry("a", 5.0),)), 100.0) == Rhythm(newest_at=5.0)
    assert rhythm(ParsedFeed("T", None, ()), 100.0) == Rhythm()


def test_the_next_try_doubles_to_an_hour_and_ends_with_the_last_attempt() -> None:
    settings = FeedsSettings(max_attempts=12, retry_base_s=30.0)
    waits = [next_try(attempts, 0.0, settings) for attempts in range(1, 13)]
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, None]
