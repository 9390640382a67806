"""/v1/digests: the daily digests as JSON. Thin. Times are Unix seconds. Tests: tests/fast/test_api_digests.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import BaseModel, ConfigDict, Field

from serve_app.api import examples
from serve_app.api.dependencies import Graph
from serve_app.api.fields import Query
from serve_app.api.schemas import Listing
from serve_app.messages_feeds import DailyQuery, DailyState

router = APIRouter()
FINAL: dict[str, Any] = {"description": "The digest has not failed, or is of an earlier day"}


class DigestOut(BaseModel):
    """A day's digest of a tag."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    object: Literal["digest"] = "digest"
    date: str = Field(description="the local date on which the day ended, as 2026-11-25")
    tag: str = Field(description="*: of all articles")
    state: DailyState = Field(description="pending, done, or failed (see reason)")
    text: str
    article_ids: Sequence[str] = Field(description="what it was written from, the newest first; an article may be gone by now")
    reason: str | None
    attempts: int
    next_try_at: float | None
    model: str
    prompt_tokens: int
    completion_tokens: int
    compute_s: float = Field(description="compute-seconds on one replica")
    cost_usd: float = Field(description="compute_s at the replica's price")
    updated_at: float


class DigestList(Listing[DigestOut]):
    """A page of daily digests."""


class RetryParams(Query):
    """Query string of POST /v1/digests/{date}/retry."""

    tag: str = Field("*", max_length=100, description="the digest's tag; without it the digest of all articles")


class DigestParams(Query):
    """Query string of GET /v1/digests."""

    tag: str | None = Field(None, max_length=100, description="a tag of digest.tags in the configuration, or * for those of all articles")
    limit: int = Field(20, ge=1, le=100, description="a whole number from 1 to 100")
    cursor: str | None = Field(None, max_length=500, description="next_cursor of the page before")

    def query(self) -> DailyQuery:
        """The same in our words."""
        return DailyQuery(self.tag, self.limit, self.cursor)


@router.post(
    "/v1/digests/{date}/retry",
    status_code=202,
    summary="Write a failed daily digest again",
    tags=["Articles"],
    responses={404: examples.MISSING, 409: FINAL},
)
async def retry_digest(date: str, query: Annotated[RetryParams, InQuery()], services: Graph) -> DigestOut:
    """Makes the last day's digest of a tag pending with one more try at least; it is written after the reply."""
    return DigestOut.model_validate(await services.retry_digest(date, query.tag))


@router.get("/v1/digests", summary="List daily digests, newest first", tags=["Articles"], responses={400: examples.BAD})
async def digests(query: Annotated[DigestParams, InQuery()], services: Graph) -> DigestList:
    """One paragraph per day and tag. A day without articles of a tag has none. Page on with `next_cursor`."""
    page = await services.digests(query.query())
    data = [DigestOut.model_validate(digest) for digest in page.digests]
    return DigestList(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)
