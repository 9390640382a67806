"""Articles and feeds as JSON. Thin: the query is checked in schemas.py, the work is the graph's.

Tests: tests/fast/test_api_articles.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as InQuery

from serve_app.api import examples
from serve_app.api.dependencies import Graph
from serve_app.api.schemas import (
    ArticleFull,
    ArticleList,
    ArticleParams,
    FeedChange,
    FeedList,
    FeedOut,
    NewFeed,
    article_full,
    article_short,
    feed_out,
)
from serve_app.errors import BadRequest
from serve_app.feed_url import check_feed_url

router = APIRouter()

NOT_OVER: dict[str, Any] = {"description": "The article is neither failed nor skipped"}


@router.get("/v1/articles", summary="List articles, newest first", tags=["Articles"], responses={400: examples.BAD})
async def articles(query: Annotated[ArticleParams, InQuery()], services: Graph) -> ArticleList:
    """The articles of all feeds or of one, with their summaries and without their texts. Page on with `next_cursor`."""
    page = await services.articles(query.query())
    data = [article_short(article) for article in page.articles]
    return ArticleList(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


@router.get("/v1/articles/{article_id}", summary="One article with its text", tags=["Articles"], responses={404: examples.MISSING})
async def article(article_id: str, services: Graph) -> ArticleFull:
    """An article with its text, its summary, the prompt it was made with, and what it took."""
    return article_full(await services.article(article_id))


@router.post(
    "/v1/articles/{article_id}/retry",
    status_code=202,
    summary="Summarise a failed or skipped article again",
    tags=["Articles"],
    responses={404: examples.MISSING, 409: NOT_OVER},
)
async def retry_article(article_id: str, services: Graph) -> ArticleFull:
    """Makes the article pending with one more try at least; the summary itself is written after the reply."""
    return article_full(await services.retry_article(article_id))


@router.get("/v1/feeds", summary="List feeds with their health", tags=["Feeds"])
async def feeds(services: Graph) -> FeedList:
    """Every feed, those of the configuration and those added here."""
    return FeedList(data=[feed_out(feed) for feed in await services.feeds()])


@router.post("/v1/feeds", status_code=201, summary="Add a feed", tags=["Feeds"], responses={400: examples.BAD, 409: examples.CONFLICT})
async def add_feed(body: NewFeed, services: Graph) -> FeedOut:
    """Adds a feed, which is checked soon after. Feeds added here live in the database."""
    try:
        check_feed_url(body.url)
    except ValueError as error:
        raise BadRequest(f"url: {error}", param="url") from None
    return feed_out(await services.add_feed(body.url, body.options.own()))


@router.patch(
    "/v1/feeds/{feed_id}",
    summary="Change a feed's options, pause it or let it go on",
    tags=["Feeds"],
    responses={400: examples.BAD, 404: examples.MISSING, 409: examples.CONFLICT},
)
async def change_feed(feed_id: str, body: FeedChange, services: Graph) -> FeedOut:
    """Changes a feed: what is named changes. Options are those of a feed that was added here; one of null is as for all feeds again.

    A feed that is `paused` is neither checked nor summarised, through restarts and other configurations, until it is sent `false`.
    """
    return feed_out(await services.change_feed(feed_id, body.options.model_dump(mode="json", exclude_unset=True), body.paused))


@router.delete(
    "/v1/feeds/{feed_id}",
    status_code=204,
    summary="Remove a feed",
    tags=["Feeds"],
    responses={404: examples.MISSING, 409: examples.CONFLICT},
)
async def remove_feed(feed_id: str, services: Graph) -> None:
    """Removes a feed that was added here. One that the configuration names is removed there."""
    await services.remove_feed(feed_id)


@router.post("/v1/feeds/{feed_id}/refresh", status_code=202, summary="Check a feed now", tags=["Feeds"], responses={404: examples.MISSING})
async def refresh_feed(feed_id: str, services: Graph) -> FeedOut:
    """Makes the feed due now; the check itself happens after the reply."""
    return feed_out(await services.refresh_feed(feed_id))
