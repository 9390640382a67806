"""Lists of feeds as other readers know them: OPML in and out. Thin: the format is feeds/opml.py's.

Tests: tests/fast/test_api_opml.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response, Security
from fastapi import Query as InQuery
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, Field

from serve_app.api import examples
from serve_app.api.dependencies import Graph, bearer, needs_admin_key
from serve_app.api.fields import Query, shown
from serve_app.errors import BadRequest, Conflict
from serve_app.feed_url import masked
from serve_app.feeds import opml

MEDIA_TYPE = "text/x-opml"
TAKEN = ("text/xml", "application/xml", "text/x-opml", "application/octet-stream")

router = APIRouter(tags=["Feeds"])


class ImportedFeed(BaseModel):
    """What became of one entry of the file."""

    url: str = Field(description="a user and password in it are shown as ***")
    title: str
    category: str = Field(description="where it stood in the file, joined by slashes; it is not kept")
    result: Literal["added", "already there", "refused"]
    reason: str | None = Field(description="why it is refused")


class ImportedFeeds(BaseModel):
    """What became of a file."""

    added: int
    already_there: int
    refused: int
    entries: Sequence[ImportedFeed] = Field(description="in the file's order")


class ExportParams(Query):
    """Query string of the export."""

    passwords: bool = Field(False, description="true or false: whether addresses keep their user and password; needs the admin key")


@router.post(
    "/v1/feeds/import",
    summary="Add the feeds of an OPML file",
    responses={400: examples.BAD, 413: examples.TOO_LARGE},
    openapi_extra={"requestBody": {"required": True, "content": {kind: {"schema": {"type": "string"}} for kind in TAKEN}}},
)
async def import_(request: Request, services: Graph) -> ImportedFeeds:
    """The body is the file. Each entry is added by itself: one that is refused stops no other, and a file sent again adds nothing twice.

    A title becomes the feed's own one. Categories are told and not kept. What our own export wrote is restored with its options.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() not in TAKEN:
        raise BadRequest(f"the body has the content type {shown(content_type)}; send OPML with Content-Type: {MEDIA_TYPE}")
    outlines = opml.read(await request.body(), content_type)
    entries = [await _added(services, outline, again=again) for outline, again in opml.repeated(outlines)]
    count = Counter(entry.result for entry in entries)
    return ImportedFeeds(added=count["added"], already_there=count["already there"], refused=count["refused"], entries=entries)


@router.get(
    "/v1/feeds/export.opml",
    summary="All feeds as an OPML file",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}, 401: examples.NO_KEY, 403: examples.NO_KEY_SET_UP},
)
async def export(
    query: Annotated[ExportParams, InQuery()], services: Graph, given: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
) -> Response:
    """Every feed with its options, for another reader or for the import here.

    Users and passwords are left out of addresses, and `x-left-out` says of how many feeds; `passwords=true` with the admin key keeps them.
    """
    if query.passwords:
        await needs_admin_key(services, given)
    body, num_left_out = opml.write(await services.feeds(), time.time(), with_passwords=query.passwords)
    headers = {
        "x-left-out": str(num_left_out),
        "content-disposition": 'attachment; filename="feeds.opml"',
        "cache-control": "no-store",
    }
    return Response(body, media_type=MEDIA_TYPE, headers=headers)


async def _added(services: Graph, outline: opml.Outline, *, again: bool) -> ImportedFeed:
    told = ImportedFeed(url=masked(outline.url), title=outline.title, category=outline.category, result="refused", reason=outline.error)
    if outline.error is not None:
        return told
    if again:
        return told.model_copy(update={"result": "already there"})
    try:
        await services.add_feed(outline.url, dict(outline.options))
    except Conflict:
        return told.model_copy(update={"result": "already there"})
    except BadRequest as error:
        return told.model_copy(update={"reason": error.message})
    return told.model_copy(update={"result": "added"})
