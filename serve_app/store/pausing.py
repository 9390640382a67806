"""Who paused a feed, and who may let it go on: a person by a command, the configuration by naming it no more. Pure.

The two are kept apart, because neither may undo what the other did: what a person paused stays so through restarts and other
configurations, and a feed that left the configuration is not taken up again by "resume". Tests: tests/contract_store/feed_list.py.
"""

from __future__ import annotations

from serve_app.messages_feeds import PausedBy

RESUME = 'let it go on with `frugal-serve feeds resume` or PATCH /v1/feeds/{id} {"paused": false}'
PUT_BACK = "put it back there, or add it by its address"


def with_person(by: PausedBy | None) -> PausedBy:
    """After a person paused it."""
    return "person" if by in (None, "person") else "both"


def without_person(by: PausedBy | None) -> PausedBy | None:
    """After a person let it go on."""
    return "config" if by in ("config", "both") else None


def with_config(by: PausedBy | None) -> PausedBy:
    """After it left the configuration."""
    return "config" if by in (None, "config") else "both"


def without_config(by: PausedBy | None) -> PausedBy | None:
    """After it came back."""
    return "person" if by in ("person", "both") else None


def is_dropped(by: PausedBy | None) -> bool:
    """True where the configuration has named it, and does so no more."""
    return by in ("config", "both")


def why(by: PausedBy | None) -> str:
    """In words, with the remedy."""
    if by == "person":
        return f"this feed is paused by a person; {RESUME}"
    return f"this feed is paused because it left the configuration; {PUT_BACK}"
