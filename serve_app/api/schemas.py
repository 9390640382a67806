"""What the routes other than completions send and take: models of the wire, made from messages.py. No I/O.

Times are Unix seconds (UTC) with a fraction, null where unknown. Every list is a `Listing`. Tests: tests/fast/test_api_articles.py.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serve_app.api.fields import Body, Query
from serve_app.errors import ConfigError
from serve_app.feed_url import masked
from serve_app.messages import ModelCard, Outcome
from serve_app.messages_feeds import Article, ArticleQuery, ArticleState, Feed, FeedState, PausedBy, TagsFrom, TextSource
from serve_app.settings_feeds import FeedOptions

T = TypeVar("T")


class Listing(BaseModel, Generic[T]):
    """A list, as OpenAI's clients page through it."""

    object: Literal["list"] = "list"
    data: Sequence[T]
    has_more: bool = False
    next_cursor: str | None = Field(None, description="send it as `cursor` for the next page")


class _Sent(BaseModel):
    """Base of what is sent: read from the dataclass of the same fields."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class SummaryShort(_Sent):
    """What a model wrote, from which prompt, and what it took."""

    text: str
    headline: str = Field(description="the summary in one line; empty where it was made by an earlier version")
    tags: Sequence[str]
    tags_from: TagsFrom | None = Field(description="model: its answer; entry: the feed's categories; text: words of the vocabulary in it")
    grounding: float | None = Field(description="share of its names and numbers that stand in the article, from 0 to 1; null: it has none")
    missing: Sequence[str] = Field(description="names and numbers that do not, at most five")
    model: str
    prompt_version: str
    cache: Outcome
    prompt_tokens: int
    completion_tokens: int
    compute_s: float = Field(description="compute-seconds on one replica")
    cost_usd: float = Field(description="compute_s at the replica's price")
    created_at: float


class SummaryFull(SummaryShort):
    """The same with what it was written from."""

    prompt_template: str
    text_hash: str


class ArticleShort(_Sent):
    """An article of a feed, without its text."""

    object: Literal["article"] = "article"
    id: str
    feed_id: str
    guid: str
    link: str
    title: str
    author: str
    published_at: float | None
    first_seen_at: float
    updated_at: float
    state: ArticleState = Field(description="pending, done, failed (see reason and next_try_at) or skipped (see reason)")
    reason: str | None
    attempts: int
    next_try_at: float | None
    duplicate_of: str | None = Field(description="the id of an earlier article of another feed with the same title and text")
    text_source: TextSource = Field(description="what is summarised: the feed's text, or that of the article's own page")
    text_note: str | None = Field(description="why the page's text is not used, where the feed has full_text")
    summary: SummaryShort | None


class ArticleFull(ArticleShort):
    """An article of a feed with its text."""

    text: str = Field(description="as the feed has it")
    page_text: str = Field(description="as its own page has it, where text_source is page")
    text_hash: str = Field(description="of the feed's title and text, by which a change is seen")
    summary: SummaryFull | None


class FeedOut(_Sent):
    """A feed and its health."""

    object: Literal["feed"] = "feed"
    id: str
    url: Annotated[str, BeforeValidator(masked)] = Field(description="a user and password in it are shown as ***")
    origin: Literal["config", "api"] = Field(description="config: named in the configuration, cannot be removed here")
    state: FeedState
    title: str
    created_at: float
    next_check_at: float
    last_check_at: float | None
    last_success_at: float | None
    last_status: int | None = Field(description="HTTP status of the last check")
    last_error: str | None
    num_errors: int = Field(description="checks that failed since the last good one")
    num_articles: Annotated[dict[ArticleState, int], BeforeValidator(dict)] = Field(description="by state")
    moved_to: Annotated[str | None, BeforeValidator(lambda url: url and masked(url))] = Field(
        description="where it is read now: permanent redirects led there three times, over a day at least"
    )
    options: Annotated[dict[str, Any], BeforeValidator(dict)] = Field(description="what it has of its own, see POST /v1/feeds")
    paused_by: PausedBy | None = Field(description="a person, the configuration that names it no more (config), or both")
    duplicate_of: str | None = Field(description="the id of another feed at which its redirects end; remove one of the two")


class ModelOut(BaseModel):
    """A served model: OpenAI's fields, vLLM's `max_model_len`, and what is loaded. Null while it is loading."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when it was loaded, 0 before")
    owned_by: str = "frugal-serve"
    loaded: bool
    max_model_len: int | None = None
    source: str | None = None
    revision: str | None = None
    quantization: str | None = None
    dtype: str | None = None
    device: str | None = None
    fingerprint: str | None = None
    num_parameters: int | None = None
    weights_bytes: int | None = None
    notes: Sequence[str] = ()
    sampling_fields: Sequence[str] = Field((), description="the request fields beyond max_tokens that its engine honours; others get a 400")


def _options(given: object) -> object:
    """As YAML's are read: a list for a tuple, every mistake named."""
    try:
        return FeedOptions.load(given, "options") if isinstance(given, Mapping) else given
    except ConfigError as error:
        raise ValueError(str(error)) from None


Options = Annotated[FeedOptions, BeforeValidator(_options, json_schema_input_type=FeedOptions)]


class NewFeed(Body):
    """Body of POST /v1/feeds."""

    url: str = Field(min_length=1, max_length=2000, description="the address of an RSS, Atom or JSON feed, as https://host/path")
    options: Options = Field(FeedOptions(), description="what it has of its own; the rest is as for all feeds")


class FeedChange(Body):
    """Body of PATCH /v1/feeds/{id}."""

    options: Options = Field(FeedOptions(), description="those to change; null: as for all feeds again")
    paused: bool | None = Field(None, description="true: neither check nor summarise it; false: go on; null: as it is")


class Readiness(BaseModel):
    """Whether requests would be answered now, and what is missing."""

    ready: bool
    waiting_for: Sequence[str] = ()
    errors: Sequence[str] = ()


def since_seconds(value: object) -> object:
    """Unix seconds of an ISO 8601 date or time (UTC unless it says otherwise) or of a number in a string."""
    if not isinstance(value, str):
        return value
    remedy = "send a date such as 2026-11-01, a time such as 2026-11-01T12:00:00Z, or Unix seconds"
    try:
        seconds = float(value)
    except ValueError:
        try:
            time = dt.datetime.fromisoformat(value)
            seconds = (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
        except (ValueError, OverflowError):
            raise ValueError(f"not a time; {remedy}") from None
    if not -1e11 < seconds < 1e11:  # also refuses nan
        raise ValueError(f"out of range; {remedy}")
    return seconds


class ArticleParams(Query):
    """Query string of GET /v1/articles and of the page."""

    feed: str | None = Field(None, max_length=64, description="the id of a feed, see GET /v1/feeds")
    state: ArticleState | None = Field(None, description="pending, done, failed or skipped")
    text: str | None = Field(None, max_length=200, description="at most 200 characters that title, text or summary holds, in any case")
    tag: str | None = Field(None, max_length=40, description="a tag, in any case")
    since: Annotated[float, BeforeValidator(since_seconds, json_schema_input_type=str)] | None = Field(
        None, description="an ISO 8601 date or time, or Unix seconds: published or first seen then or later"
    )
    limit: int = Field(20, ge=1, le=100, description="a whole number from 1 to 100")
    cursor: str | None = Field(None, max_length=500, description="next_cursor of the page before")

    def query(self) -> ArticleQuery:
        """The same in our words."""
        return ArticleQuery(self.feed, self.state, self.text, self.since, self.limit, self.cursor, self.tag)


class ArticleList(Listing[ArticleShort]):
    """A page of articles."""


class FeedList(Listing[FeedOut]):
    """All feeds."""


class ModelList(Listing[ModelOut]):
    """All models."""


def article_short(article: Article) -> ArticleShort:
    """For lists."""
    return ArticleShort.model_validate(article)


def article_full(article: Article) -> ArticleFull:
    """For one article."""
    return ArticleFull.model_validate(article)


def feed_out(feed: Feed) -> FeedOut:
    """For lists and for one feed."""
    return FeedOut.model_validate(feed)


def model_out(id: str, card: ModelCard | None) -> ModelOut:
    """A configured model, with its card once it is loaded."""
    if card is None:
        return ModelOut(id=id, created=0, loaded=False)
    return ModelOut(
        id=id,
        created=int(card.loaded_at),
        loaded=True,
        max_model_len=card.max_context,
        source=card.source,
        revision=card.revision,
        quantization=card.quantization,
        dtype=card.dtype,
        device=card.device,
        fingerprint=card.fingerprint,
        num_parameters=card.num_parameters,
        weights_bytes=card.weights_bytes,
        notes=card.notes,
        sampling_fields=card.sampling_fields,
    )
