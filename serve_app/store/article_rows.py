"""Articles and feeds as rows, lists of them as pages: the SELECTs of the article store, and its cursor.

Tests: tests/contract_store/pages.py.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Row, ScalarSelect, Select, Text, and_, func, null, or_, select, type_coerce

from serve_app.errors import BadRequest
from serve_app.messages_feeds import Article, ArticleQuery, ArticleState, Feed, Summary
from serve_app.store.schema import SHOWN_AT, articles, pages, results

STATES: tuple[ArticleState, ...] = ("pending", "done", "failed", "skipped")
RESULT_COLUMNS = (
    "summary",
    "model",
    "prompt_version",
    "prompt_template",
    "cache",
    "prompt_tokens",
    "completion_tokens",
    "compute_s",
    "cost_usd",
    "headline",
    "tags",
    "tags_from",
    "grounding",
    "missing",
)
LONG = ("categories", "text")  # what a list leaves out


def select_articles(*, with_text: bool = True) -> Select[Any]:
    """Every article, each with the result of its present text; a result of an older text is not shown. Without texts they are "",
    and nobody has categories."""
    long = [articles.c[name] if with_text else null().label(name) for name in LONG]
    own = (results.c[name].label(f"result_{name}") for name in (*RESULT_COLUMNS, "created_at"))
    joined = articles.outerjoin(results, and_(results.c.article_id == articles.c.id, results.c.text_hash == articles.c.text_hash))
    joined = joined.outerjoin(pages, pages.c.article_id == articles.c.id)
    columns = (column for column in articles.c if column.name not in LONG)
    page_text = pages.c.text.label("page_text") if with_text else null().label("page_text")
    page = (pages.c.state.label("page_state"), pages.c.note.label("text_note"), page_text)
    return select(*columns, *page, *long, *own, _first_with_this_text().label("duplicate_of")).select_from(joined)


def _first_with_this_text() -> ScalarSelect[Any]:
    """The id of the article of another feed that had an article's title and text before it."""
    other = articles.alias("other")
    is_before = or_(
        other.c.first_seen_at < articles.c.first_seen_at,
        and_(other.c.first_seen_at == articles.c.first_seen_at, other.c.id < articles.c.id),
    )
    same = (
        select(other.c.id)
        .where(other.c.text_hash == articles.c.text_hash, other.c.feed_id != articles.c.feed_id, is_before)
        .correlate(articles)
    )
    return same.order_by(other.c.first_seen_at, other.c.id).limit(1).scalar_subquery()


def select_page(query: ArticleQuery) -> Select[Any]:
    """The rows of one page and one more, which tells whether there is another page.

    Raises:
        BadRequest: the cursor is not one of ours, or the limit is below 1.
    """
    if query.limit < 1:
        raise BadRequest("limit must be at least 1", param="limit")
    statement = select_articles(with_text=False)
    if query.feed_id is not None:
        statement = statement.where(articles.c.feed_id == query.feed_id)
    if query.state is not None:
        statement = statement.where(articles.c.state == query.state)
    if query.since is not None:
        statement = statement.where(query.since <= SHOWN_AT)
    if query.tag:
        statement = statement.where(has_tag(query.tag))
    if query.text:
        statement = statement.where(_holds(query.text))
    if query.cursor is not None:
        at, article_id = read_cursor(query.cursor)
        statement = statement.where(at >= SHOWN_AT, or_(at > SHOWN_AT, articles.c.id < article_id))
    return statement.order_by(SHOWN_AT.desc(), articles.c.id.desc()).limit(query.limit + 1)


def has_tag(tag: str) -> ColumnElement[bool]:
    """The summary has this tag, in any case; in SQL over articles joined with their results."""
    listed, as_given, lower = type_coerce(results.c.tags, Text), *(json.dumps(each, ensure_ascii=False) for each in (tag, tag.lower()))
    return or_(listed.contains(as_given, autoescape=True), func.lower(listed).contains(lower, autoescape=True))


def _holds(text: str) -> ColumnElement[bool]:
    # SQLite lowers ASCII letters only, so a text with others is looked for in the usual three spellings as well.
    spellings = {text} if text.isascii() else {text, text.lower(), text.upper(), text.capitalize(), text.title()}
    columns = (articles.c.title, articles.c.text, results.c.summary)
    return or_(*(column.icontains(spelling, autoescape=True) for column in columns for spelling in sorted(spellings)))


def cursor_behind(article: Article) -> str:
    """The opaque cursor of the page that begins behind this article."""
    at = article.first_seen_at if article.published_at is None else article.published_at
    return base64.urlsafe_b64encode(json.dumps([at, article.id]).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[float, str]:
    """The place that a cursor names.

    Raises:
        BadRequest: it is not one of ours.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        at, article_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if isinstance(article_id, str) and isinstance(at, float | int) and not isinstance(at, bool) and math.isfinite(at):
            return float(at), article_id
    except (ValueError, TypeError, binascii.Error, OverflowError, RecursionError):
        pass
    raise BadRequest("cursor is not one that this server gave out; start again without it", param="cursor")


def article_of(row: Row[Any]) -> Article:
    """A row of `select_articles` as an Article."""
    values = {name: row._mapping[name] for name in articles.c.keys()}  # noqa: SIM118 (a column collection iterates over columns)
    values |= {"text": values["text"] or "", "categories": values["categories"] or ()}
    summary = None
    if row._mapping["result_summary"] is not None:
        own = {name: row._mapping[f"result_{name}"] for name in RESULT_COLUMNS}
        own["headline"] = own["headline"] or ""
        summary = Summary(text=own.pop("summary"), text_hash=row.text_hash, created_at=row._mapping["result_created_at"], **own)
    return Article(
        **values,
        summary=summary,
        duplicate_of=row._mapping["duplicate_of"],
        text_source="page" if row.page_state == "page" else "feed",
        text_note=row.text_note,
        page_text=row.page_text or "",
    )


def article_values(article: Article) -> dict[str, Any]:
    """An Article as the columns of its row."""
    return {name: getattr(article, name) for name in articles.c.keys()}  # noqa: SIM118


def feed_of(row: Row[Any], counts: Iterable[tuple[ArticleState, int]]) -> Feed:
    """A row of `feeds`, with its articles counted by state, as a Feed."""
    values = {**row._mapping, "options": json.loads(row.options or "{}")}
    return Feed(**values, num_articles=tuple(sorted(counts, key=lambda pair: STATES.index(pair[0]))))
