"""What the article store takes and gives besides the dataclasses of messages.py. Plain data.

Tests: tests/contract_store/articles.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.messages_feeds import Article, ArticleState


@dataclass(frozen=True, slots=True)
class KnownArticle:
    """What must be known of a stored article to see whether an entry changes it."""

    text_hash: str
    state: ArticleState
    first_seen_at: float
    reason: str | None = None
    id: str = ""
    link: str = ""
    published_at: float | None = None


@dataclass(frozen=True, slots=True)
class Rename:
    """A stored article that is found under another guid or link now, and is otherwise the same."""

    article_id: str
    guid: str
    link: str


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What a document says about how often it changes; see the columns of `feeds`."""

    asked_wait_s: float | None = None
    skips: str | None = None
    entry_gap_s: float | None = None
    newest_at: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """Where a feed is found now, and the permanent redirect that is being proven; see the columns of `feeds`."""

    moved_to: str | None = None
    redirect_to: str | None = None
    redirect_count: int | None = None
    redirect_since: float | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True)
class FeedCheck:
    """A check that went well, at `at`: everything that must be stored together. Validators are those to send with the next request.
    Without a `rhythm` or `move` the stored one stays."""

    at: float
    status: int
    next_check_at: float
    etag: str | None = None
    last_modified: str | None = None
    title: str = ""
    new: tuple[Article, ...] = ()
    changed: tuple[Article, ...] = ()
    renamed: tuple[Rename, ...] = ()
    rhythm: Rhythm | None = None
    move: Move | None = None
    pages: frozenset[str] = frozenset()  # ids of new and changed articles whose own pages are to be read


@dataclass(frozen=True, slots=True)
class FeedFailure:
    """A check that went wrong, at `at`. `is_gone` stops the checks until a person asks for one; `forget_move`: the feed is not where it
    moved to any more, so it is looked for at its own address again."""

    at: float
    error: str
    next_check_at: float
    status: int | None = None
    is_gone: bool = False
    forget_move: bool = False
