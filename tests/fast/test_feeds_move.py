"""A permanent redirect is believed when it proved true for a day, and not where it leads to another feed or to a weaker place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.feeds.move import is_lost, move
from serve_app.messages_feeds import Feed
from serve_app.store.records import Move

URL, NEW = "https://feed.test/", "https://new.test/"
FEED = Feed("f", URL, "config", "ok", "", 0.0, 0.0)
ALONE = {"f": (URL,)}
HOUR = 3600.0


def after(feed: Feed, found: Move) -> Feed:
    return replace(feed, **{name: getattr(found, name) for name in Move.__dataclass_fields__})


def test_a_redirect_is_adopted_after_three_good_checks_over_a_day() -> None:
    feed = FEED
    for hours, expected in ((0, None), (1, None), (2, None), (23.9, None), (24, NEW)):
        feed = after(feed, move(feed, NEW, True, ALONE, hours * HOUR))
        assert feed.moved_to == expected
    assert feed == replace(FEED, moved_to=NEW)
    assert move(feed, None, True, ALONE, 1e9) == Move(NEW)


def test_two_checks_in_two_days_are_not_enough_and_any_other_end_begins_anew() -> None:
    begun = after(FEED, move(FEED, NEW, True, ALONE, 0.0))
    assert move(begun, NEW, True, ALONE, 48 * HOUR) == Move(None, NEW, 2, 0.0)
    ready = replace(begun, redirect_count=2)
    assert move(ready, NEW, True, ALONE, 48 * HOUR) == Move(NEW)
    assert move(ready, "https://third.test/", True, ALONE, 48 * HOUR) == Move(None, "https://third.test/", 1, 48 * HOUR)
    assert move(ready, None, True, ALONE, 48 * HOUR) == Move()
    assert move(ready, NEW, False, ALONE, 48 * HOUR) == Move(), "a page of maintenance"


@pytest.mark.parametrize("to", ["http://new.test/", "https://new.test/" + "x" * 3000])
def test_a_weaker_or_endless_address_is_followed_and_never_adopted(to: str) -> None:
    ready = replace(FEED, redirect_to=to, redirect_count=9, redirect_since=0.0)
    assert move(ready, to, True, ALONE, 1e9) == Move()
    assert move(replace(ready, url="http://feed.test/"), to, True, ALONE, 1e9).moved_to == (to if len(to) < 2000 else None)


def test_an_address_that_another_feed_has_makes_this_one_its_double() -> None:
    ready = replace(FEED, redirect_to=NEW, redirect_count=9, redirect_since=0.0)
    assert move(ready, NEW, True, {**ALONE, "g": (NEW,)}, 1e9) == Move(duplicate_of="g")
    assert move(ready, NEW, True, {**ALONE, "g": ("https://g.test/", NEW)}, 1e9) == Move(duplicate_of="g")


def test_a_feed_that_moves_back_or_is_lost_is_looked_for_at_its_own_address() -> None:
    moved = replace(FEED, moved_to=NEW, redirect_to=URL, redirect_count=2, redirect_since=0.0)
    assert move(moved, URL, True, {"f": (URL, NEW)}, 1e9) == Move()
    assert [is_lost(moved, num_errors) for num_errors in (2, 3)] == [False, True]
    assert not is_lost(FEED, 9)
