"""The digest as feeds that other readers follow: /feed.rss, /feed.atom, /feed.json. Thin: the documents are syndicate.py's.

Validators are of the content, so a reader that asks again gets a 304 until a summary is new (https://www.rfc-editor.org/rfc/rfc9110,
section 13). Tests: tests/fast/test_api_published.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import format_datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi import Query as InQuery
from pydantic import Field

from serve_app.api import examples, syndicate
from serve_app.api.dependencies import Graph
from serve_app.api.fields import Query
from serve_app.api.services import Services
from serve_app.errors import NotFound
from serve_app.messages_feeds import Article, ArticleQuery, Feed

router = APIRouter()
MAX_AGE_S = 60
SETTLED_S = 60  # summaries are stored a little after the time they bear, and several in the same second
Write = Callable[[syndicate.Channel, Sequence[Article], Mapping[str, Feed]], bytes]
FORMATS: tuple[tuple[str, str, str, Write], ...] = (  # ending of the path, name, type, and what writes it
    ("rss", "RSS 2.0", syndicate.RSS, syndicate.rss),
    ("atom", "Atom 1.0", syndicate.ATOM_TYPE, syndicate.atom),
    ("json", "JSON Feed 1.1", syndicate.JSON_TYPE, syndicate.json_feed),
)
NOT_MODIFIED: dict[str, Any] = {"description": "Nothing is new since `If-None-Match` or `If-Modified-Since`"}


class FeedParams(Query):
    """Query string of the published feeds."""

    feed: str | None = Field(None, max_length=64, description="only articles of the feed with this id, see GET /v1/feeds")
    tag: str | None = Field(None, max_length=40, description="only articles with this tag, in any case")
    text: str | None = Field(None, max_length=200, description="at most 200 characters that title, text or summary holds, in any case")
    limit: int = Field(50, ge=1, le=200, description="a whole number from 1 to 200")

    def filters(self) -> tuple[tuple[str, str], ...]:
        """Those that are set."""
        return tuple((name, value) for name in ("feed", "tag", "text") if (value := getattr(self, name)))


def _add(path: str, kind: str, media_type: str, write: Write) -> None:
    async def published(query: Annotated[FeedParams, InQuery()], request: Request, services: Graph) -> Response:
        """The newest summarised articles, of all feeds or of some. Ids stay, whatever the filter and the server's address."""
        channel, articles, feeds = await _content(query, request, path, services)
        return reply(request, write(channel, articles, feeds), media_type, syndicate.updated_at(articles))

    add_route(router, path, published, media_type, kind, f"The digest as {kind}", {400: examples.BAD, 404: examples.MISSING})


def add_route(
    router: APIRouter, path: str, endpoint: Callable[..., Any], media_type: str, name: str, summary: str, errors: dict[int | str, Any]
) -> None:
    """A published document, for GET and for HEAD."""
    router.add_api_route(
        path,
        endpoint,
        methods=["GET"],
        summary=summary,
        tags=["Published feeds"],
        response_class=Response,
        responses={200: {"content": {media_type: {}}}, 304: NOT_MODIFIED, **errors},
        name=name,
    )
    router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


for _ending, _kind, _media_type, _write in FORMATS:
    _add(f"/feed.{_ending}", _kind, _media_type, _write)


async def _content(
    query: FeedParams, request: Request, path: str, services: Services
) -> tuple[syndicate.Channel, tuple[Article, ...], dict[str, Feed]]:
    feeds = {feed.id: feed for feed in await services.feeds()}
    if query.feed is not None and query.feed not in feeds:
        raise NotFound(f"there is no feed {query.feed!r}; GET /v1/feeds lists them")
    page = await services.articles(ArticleQuery(query.feed, "done", query.text, limit=query.limit, tag=query.tag))
    names = ["Frugal Serve"]
    if query.feed is not None:
        names.append(feeds[query.feed].title or query.feed)
    names += [value for name, value in query.filters() if name != "feed"]
    base = base_of(request, services)
    own = address(base, path, given(query))
    channel = syndicate.Channel(" · ".join(names), address(base, "/", query.filters()), own, query.filters())
    return channel, page.articles, feeds


def given(query: Query) -> dict[str, Any]:
    """The parameters that a reader sent."""
    return query.model_dump(include=query.model_fields_set, exclude_none=True)


def base_of(request: Request, services: Services) -> str:
    """Under which address this server is known, without a slash at its end."""
    return (services.settings.public_url or str(request.base_url)).rstrip("/")


def address(base: str, path: str, params: Any) -> str:
    """The address of a path with these parameters."""
    return f"{base}{path}" + (f"?{urlencode(params)}" if params else "")


def reply(request: Request, body: bytes, media_type: str, updated_at: float) -> Response:
    """The document, or a 304 to who has it."""
    headers = {"etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "cache-control": f"max-age={MAX_AGE_S}"}
    if 0 < updated_at <= time.time() - SETTLED_S:
        headers["last-modified"] = format_datetime(syndicate.time_of(updated_at), usegmt=True)
    if _is_known(request.headers, headers):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=f"{media_type}; charset=utf-8", headers=headers)


def _is_known(asked: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether the reader has these very bytes; its ETag goes before its date, as RFC 9110 13.2.2 demands.

    The date must be one that we gave: of two summaries of one second the second would otherwise stay unseen, and so would a list that
    lost its newest article.
    """
    if (given := asked.get("if-none-match")) is not None:
        tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
        return own["etag"] in tags or "*" in tags
    return "last-modified" in own and asked.get("if-modified-since") == own["last-modified"]
