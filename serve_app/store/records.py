"""What the article store takes and gives besides the dataclasses of messages.py. Plain data.

Tests: tests/contract_store/articles.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.messages import Article, ArticleState


@dataclass(frozen=True, slots=True)
class KnownArticle:
    """What must be known of a stored article to see whether an entry changes it."""

    text_hash: str
    state: ArticleState
    first_seen_at: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FeedCheck:
    """A check that went well, at `at`: everything that must be stored together. Validators are those to send with the next request."""

    at: float
    status: int
    next_check_at: float
    etag: str | None = None
    last_modified: str | None = None
    title: str = ""
    new: tuple[Article, ...] = ()
    changed: tuple[Article, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedFailure:
    """A check that went wrong, at `at`. `is_gone` stops the checks until a person asks for one."""

    at: float
    error: str
    next_check_at: float
    status: int | None = None
    is_gone: bool = False
