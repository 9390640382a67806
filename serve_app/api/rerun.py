"""POST /v1/articles/rerun: summaries written again, first as a preview. Thin. Tests: tests/fast/test_api_rerun.py."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serve_app.api import examples
from serve_app.api.dependencies import Graph
from serve_app.api.fields import Body
from serve_app.api.schemas import since_seconds
from serve_app.messages_feeds import Rerun

router = APIRouter()


class RerunBody(Body):
    """Which articles: all that is given must hold."""

    feed: str | None = Field(None, max_length=64, description="the id of a feed, see GET /v1/feeds")
    tag: str | None = Field(None, max_length=40, description="a tag, in any case")
    ids: list[Annotated[str, Field(max_length=64)]] | None = Field(
        None, min_length=1, max_length=500, description="a list of 1 to 500 ids of articles"
    )
    state: Literal["done", "failed", "skipped"] = Field(
        "done", description="done, failed or skipped; a pending article is to be run anyway"
    )
    prompt_version_not: str | None = Field(None, max_length=200, description="a prompt_version: only summaries of another, or none")
    model_not: str | None = Field(None, max_length=200, description="the id of a model: only summaries of another, or none")
    since: Annotated[float, BeforeValidator(since_seconds, json_schema_input_type=str)] | None = Field(
        None, description="an ISO 8601 date or time, or Unix seconds: published or first seen then or later"
    )
    dry_run: bool = Field(True, description="true: nothing happens, and the reply says what would; false: the articles become pending")

    def rerun(self) -> Rerun:
        """The same in our words."""
        return Rerun(
            self.feed, self.tag, tuple(self.ids) if self.ids else None, self.state, self.prompt_version_not, self.model_not, self.since
        )


class ExpectedOut(BaseModel):
    """What all calls take where none of their answers is stored, at the averages of the work for feeds until now."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    prompt_tokens: int
    completion_tokens: int
    compute_s: float = Field(description="compute-seconds on one replica")
    cost_usd: float = Field(description="compute_s at the replica's price")


class RerunOut(BaseModel):
    """What a rerun is, or would be."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    object: Literal["rerun"] = "rerun"
    dry_run: bool
    num_articles: int
    num_calls: int = Field(description="of the model: one for each article, or for each of its parts and what comes of them")
    num_same: int = Field(
        description="articles whose summary is of this very prompt and model: they cost nothing where their answers are stored"
    )
    expected: ExpectedOut | None = Field(description="null before the model has summarised anything")


@router.post(
    "/v1/articles/rerun",
    status_code=200,
    summary="Summarise articles again",
    tags=["Articles"],
    responses={400: examples.BAD, 404: examples.MISSING},
)
async def rerun(body: RerunBody, services: Graph) -> RerunOut:
    """After a change of the prompt or of the model. Each article shows the summary that it has until a new one is stored."""
    return RerunOut.model_validate(await services.rerun_articles(body.rerun(), body.dry_run))
