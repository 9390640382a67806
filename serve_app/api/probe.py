"""A trial check of an address: what the server would find there, step by step. Tests: tests/fast/test_api_probe.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from serve_app.api import examples
from serve_app.api.dependencies import Graph
from serve_app.api.fields import Body

router = APIRouter(tags=["Feeds"])


class TrialAddress(Body):
    """Body of POST /v1/feeds/check."""

    url: str = Field(min_length=1, max_length=2000, description="the address of an RSS, Atom or JSON feed, as https://host/path")


class StepOut(BaseModel):
    """One step of a trial check."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="address, request (one per hop), body, parse, entries, full text, hub, schedule; fetch where that failed")
    ok: bool
    text: str
    details: dict[str, Any] = Field(description="the same as data; times are Unix seconds")


class ProbeOut(BaseModel):
    """What a check of the address would do."""

    model_config = ConfigDict(from_attributes=True)

    url: str = Field(description="a user and password in it are shown as ***")
    ok: bool = Field(description="whether articles would come of it")
    steps: Sequence[StepOut]
    feeds: Sequence[str] = Field(description="where there is a web page instead: the feeds that it names")


@router.post("/v1/feeds/check", summary="Try an address without storing anything", responses={400: examples.BAD, 429: examples.BUSY})
async def check_feed(body: TrialAddress, services: Graph) -> ProbeOut:
    """Fetches and reads what is at the address as a check of a feed would, from this server's network and with its guards and pacing.

    An address that cannot be read is no error here: the steps say how far it went.
    """
    return ProbeOut.model_validate(await services.check_feed(body.url))
