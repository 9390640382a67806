"""What Feeds tells of its feeds and articles. Nothing here knows Ray, HTTP or SQL. Tests: tests/fast/test_messages.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from serve_app.messages import Outcome

ArticleState = Literal["pending", "done", "failed", "skipped"]
TextSource = Literal["feed", "page"]
TagsFrom = Literal["model", "entry", "text"]
FeedState = Literal["new", "ok", "failing", "gone", "paused"]
PausedBy = Literal["person", "config", "both"]


@dataclass(frozen=True, slots=True)
class Summary:
    """The one stored result of an article: what was written, by whom, from which prompt and text, and what it took.

    `grounding` is the share of its names and numbers that stand in the article, None where it has none; `missing` some of the others.
    """

    text: str
    model: str
    prompt_version: str
    prompt_template: str
    text_hash: str
    cache: Outcome
    prompt_tokens: int
    completion_tokens: int
    compute_s: float
    cost_usd: float
    created_at: float
    headline: str = ""
    tags: tuple[str, ...] = ()
    tags_from: TagsFrom | None = None
    grounding: float | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Article:
    """An entry of a feed as we keep it. `text` is plain text; `text_hash` the SHA-256 of its normalised title and text.

    `duplicate_of`: the id of the article of another feed, seen before this one, that has the same title and text. `categories` are the
    entry's own; lists leave them out, as they do the texts. `page_text` is what the article's own page says, where that is used instead
    of `text`; `text_note` why not.
    """

    id: str
    feed_id: str
    guid: str
    link: str
    title: str
    author: str
    published_at: float | None
    first_seen_at: float
    updated_at: float
    text: str
    text_hash: str
    state: ArticleState
    reason: str | None = None
    attempts: int = 0
    next_try_at: float | None = None
    summary: Summary | None = None
    duplicate_of: str | None = None
    categories: tuple[str, ...] = ()
    text_source: TextSource = "feed"
    text_note: str | None = None
    page_text: str = ""

    @property
    def best_text(self) -> str:
        """What is summarised."""
        return self.page_text or self.text


@dataclass(frozen=True, slots=True)
class Feed:
    """A feed and its health. `origin` says whether the configuration or the API named it; `num_articles` counts by state.

    `moved_to` is where requests go instead of `url`, `duplicate_of` the id of another feed at which its redirects end. The other times
    and counts at the end are those of its rhythm and of a redirect that is being proven; see store/schema.py.
    `options` are its own settings (settings_feeds.FeedOptions). `paused_by`: a person, the configuration that names it
    no more, or both.
    """

    id: str
    url: str
    origin: Literal["config", "api"]
    state: FeedState
    title: str
    created_at: float
    next_check_at: float
    etag: str | None = None
    last_modified: str | None = None
    last_status: int | None = None
    last_error: str | None = None
    num_errors: int = 0
    last_check_at: float | None = None
    last_success_at: float | None = None
    num_articles: tuple[tuple[ArticleState, int], ...] = ()
    moved_to: str | None = None
    redirect_to: str | None = None
    redirect_count: int | None = None
    redirect_since: float | None = None
    duplicate_of: str | None = None
    asked_wait_s: float | None = None
    skips: str | None = None
    entry_gap_s: float | None = None
    newest_at: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    paused_by: PausedBy | None = None

    @property
    def address(self) -> str:
        """Where its document is asked for."""
        return self.moved_to or self.url


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step of a trial check: `name` it, whether it went well, what was found in words, and the same as data."""

    name: str
    ok: bool
    text: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a check of an address would do. `url` is masked; `feeds`: those that a web page at this address names."""

    url: str
    ok: bool
    steps: tuple[ProbeStep, ...]
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArticleQuery:
    """Which articles: of one feed, in one state, holding a text (title, article or summary, any case), published or first seen since a
    Unix time, with a tag (in any case). Newest first; `cursor` is the opaque `next_cursor` of the page before."""

    feed_id: str | None = None
    state: ArticleState | None = None
    text: str | None = None
    since: float | None = None
    limit: int = 20
    cursor: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Rerun:
    """Which articles are to be summarised again: all that is given must hold. A summary of another prompt version or model, or none, is one
    that `prompt_version_not` and `model_not` leave."""

    feed_id: str | None = None
    tag: str | None = None
    ids: tuple[str, ...] | None = None
    state: ArticleState = "done"
    prompt_version_not: str | None = None
    model_not: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What some calls of the model will take, in tokens, compute-seconds and dollars."""

    prompt_tokens: int
    completion_tokens: int
    compute_s: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class RerunPreview:
    """What a rerun is, or with `dry_run` would be. `num_same` of the articles have a summary of this very prompt and model: while their
    answers are in the cache, they cost nothing. `expected` takes no answer for stored; None where nothing is known yet."""

    dry_run: bool
    num_articles: int
    num_calls: int
    num_same: int
    expected: Expected | None


@dataclass(frozen=True, slots=True)
class ArticlePage:
    """One page of a list, whose articles come without their text, and the cursor of the next one where there is more."""

    articles: tuple[Article, ...]
    next_cursor: str | None = None


DailyState = Literal["pending", "done", "failed", "empty"]


@dataclass(frozen=True, slots=True)
class DailyDigest:
    """What was written about the articles of a tag ("*": of all) on the day before `date`, a local date as 2026-11-25. `article_ids` are
    those that it was written from; `reason` says why it is not there."""

    date: str
    tag: str
    state: DailyState = "pending"
    text: str = ""
    article_ids: tuple[str, ...] = ()
    reason: str | None = None
    attempts: int = 0
    next_try_at: float | None = None
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    compute_s: float = 0.0
    cost_usd: float = 0.0
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class DailyQuery:
    """Which daily digests: of one tag, in one state. The newest first; `cursor` is the opaque `next_cursor` of the page before."""

    tag: str | None = None
    limit: int = 20
    cursor: str | None = None
    state: DailyState | None = None


@dataclass(frozen=True, slots=True)
class DailyPage:
    """One page of daily digests, and the cursor of the next one where there is more."""

    digests: tuple[DailyDigest, ...]
    next_cursor: str | None = None
