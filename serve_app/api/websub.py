"""Where a WebSub hub reaches us: it asks whether a subscription is meant, and sends what is new (https://www.w3.org/TR/websub/).

The token in the path is the only thing that a hub has to know, so nothing else about the feed can be learnt here. What it sends counts
only with its signature. Tests: tests/fast/test_api_websub.py.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from serve_app.api import examples
from serve_app.api.dependencies import Graph
from serve_app.feeds.websub import Verification

router = APIRouter(tags=["WebSub"])
PATH = "/v1/websub/{feed_id}/{token}"


@router.get(PATH, summary="A hub asks whether a subscription is wanted", responses={404: examples.MISSING})
async def verify(feed_id: str, token: str, request: Request, services: Graph) -> PlainTextResponse:
    """Answers `hub.challenge` for a subscription that this server has asked for."""
    given = request.query_params
    names = ("mode", "topic", "challenge", "lease_seconds", "reason")
    return PlainTextResponse(await services.verify_push(feed_id, token, Verification(*(given.get(f"hub.{name}", "") for name in names))))


@router.post(PATH, status_code=202, summary="A hub sends new entries", responses={404: examples.MISSING})
async def take(feed_id: str, token: str, request: Request, services: Graph) -> Response:
    """Takes a document whose `X-Hub-Signature` is right; as the standard demands, a wrong one gets the same reply and is dropped."""
    signature = request.headers.get("x-hub-signature", "")
    await services.take_push(feed_id, token, await request.body(), request.headers.get("content-type"), signature)
    return Response(status_code=202)
