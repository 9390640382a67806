"""Whether a feed has moved: permanent redirects are believed only when they prove true. Touches nothing: data and a time in, data out.

A maintenance page, a hotel's portal or a slip in a server's configuration also answers 301 for an hour, and a reader that believed it
once has lost the feed. Tests: tests/fast/test_feeds_move.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_app.feed_url import MAX_FEED_URL
from serve_app.messages_feeds import Feed
from serve_app.store.records import Move

NUM_PROOFS = 3  # good checks that ended at the same address
PROOF_S = 86_400.0  # from the first of them to the last
MAX_LOST = 3  # failures in a row after which the address that a person gave is tried again


def move(feed: Feed, to: str | None, is_same_feed: bool, addresses: Mapping[str, Sequence[str]], now: float) -> Move:
    """After a good check whose permanent redirects led `to` an address, or nowhere. `is_same_feed`: what was found there is the feed that
    is known. `addresses`: those of every feed on the list, by id."""
    if to is None or not _may_move(feed.address, to):
        return Move(feed.moved_to)
    other = next((own for own, used in addresses.items() if to in used and own != feed.id), None)
    if other is not None:
        return Move(feed.moved_to, duplicate_of=other)
    if not is_same_feed:
        return Move(feed.moved_to)
    if to != feed.redirect_to or feed.redirect_since is None:
        return Move(feed.moved_to, to, 1, now)
    count = (feed.redirect_count or 0) + 1
    if count >= NUM_PROOFS and now - feed.redirect_since >= PROOF_S:
        return Move(None if to == feed.url else to)
    return Move(feed.moved_to, to, count, feed.redirect_since)


def is_lost(feed: Feed, num_errors: int) -> bool:
    """True where a feed that moved has not been found at its new address for so long that the old one is worth another look."""
    return feed.moved_to is not None and num_errors >= MAX_LOST


def _may_move(address: str, to: str) -> bool:
    """Not from TLS to none, which anybody on the way could have ordered."""
    is_weaker = address.lower().startswith("https:") and not to.lower().startswith("https:")
    return not is_weaker and len(to.encode("utf-8", "replace")) <= MAX_FEED_URL
