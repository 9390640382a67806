"""The pages for people: the digest, one article, and the API's reference. Rendered here, without scripts.

A part of the graph that is away becomes a notice on the page and not an error in its place. Tests: tests/fast/test_api_pages.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import pydantic
from fastapi import APIRouter, Request, Response

from serve_app.api.dependencies import Graph
from serve_app.api.failures import internal
from serve_app.api.fields import bad_request
from serve_app.api.pages import reference, views
from serve_app.api.pages.render import HEADERS, ICON, page
from serve_app.api.schemas import ArticleParams
from serve_app.errors import FrugalError
from serve_app.feeds.extract import missing_note
from serve_app.messages_feeds import ArticlePage, DailyPage, DailyQuery, Feed

T = TypeVar("T")
MAX_DIGESTS = 64  # of one day
router = APIRouter(include_in_schema=False)


@router.get("/")
async def digest(request: Request, services: Graph) -> Response:
    """The articles, the feeds and what it cost."""
    params, mistake = _params(request)
    notices = [mistake.message] if mistake else []
    nothing: dict[str, Any] = {}
    no_feeds: tuple[Feed, ...] = ()
    articles, digests, feeds, report, ready = await asyncio.gather(
        _or_notice(request, services.articles(params.query()), ArticlePage(()), notices),
        _or_notice(request, services.digests(DailyQuery(limit=MAX_DIGESTS)), DailyPage(()), notices),
        _or_notice(request, services.feeds(), no_feeds, notices),
        _or_notice(request, services.report(), nothing, notices),
        _or_notice(request, services.ready(), nothing, notices),
    )
    names = {feed.id: views.feed_name(feed) for feed in feeds}
    return page(
        "digest.html",
        status=400 if mistake else 200,
        params=params,
        filtered=params != ArticleParams(limit=params.limit),
        articles=articles.articles,
        digests=[] if params.cursor else views.of_last_day(digests.digests),
        published=views.published(params),
        next_page=views.next_page(params, articles.next_cursor),
        feeds=feeds,
        names=names,
        counts={feed.id: views.counts(feed) for feed in feeds},
        notes={feed.id: missing_note(feed.options) for feed in feeds},
        figures=views.cost_strip(report),
        worth={"Model": views.worth(report, "by_model", {}), "Feed": views.worth(report, "by_feed", names)},
        waiting_for=list(ready.get("waiting_for") or ()),
        errors=list(dict.fromkeys([*notices, *(ready.get("errors") or ())])),
    )


@router.get("/articles/{article_id}")
async def article(article_id: str, request: Request, services: Graph) -> Response:
    """One article with its summary, what that took, and its text."""
    try:
        found = await services.article(article_id)
    except FrugalError as error:
        return page("error.html", status=error.status, title=str(error.status), message=error.message)
    feeds = await _or_notice(request, services.feeds(), (), [])
    name = next((views.feed_name(feed) for feed in feeds if feed.id == found.feed_id), found.feed_id)
    return page("article.html", article=found, feed=name)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API's reference, from the same schema as /openapi.json."""
    schema = request.app.openapi()
    objects = reference.objects(schema)
    names = {item.name for item in objects}
    return page("reference.html", info=schema["info"], operations=reference.operations(schema), objects=objects, names=names)


@router.get("/favicon.svg")
async def icon() -> Response:
    """The icon, from here, because the pages may load nothing else."""
    return Response(ICON, media_type="image/svg+xml", headers={**HEADERS, "cache-control": "max-age=86400"})


def _params(request: Request) -> tuple[ArticleParams, FrugalError | None]:
    # Names that we do not know are passed over here, unlike in the API: people paste links with tracking parameters.
    known = {name: value for name, value in request.query_params.items() if name in ArticleParams.model_fields}
    try:
        return ArticleParams.model_validate(known), None
    except pydantic.ValidationError as error:
        return ArticleParams(), bad_request(error.errors(), ArticleParams)


async def _or_notice(request: Request, call: Awaitable[T], default: T, notices: list[str]) -> T:
    try:
        return await call
    except FrugalError as error:
        notices.append(error.message)
    except Exception as error:
        notices.append(internal(error, request.scope).message)
    return default
