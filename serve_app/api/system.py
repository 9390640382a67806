"""Models, health, readiness, metrics and the report: what other programs ask about this one.

/health says that the process answers, /ready that requests would be. Tests: tests/fast/test_api_system.py.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from serve_app.api import examples
from serve_app.api.dependencies import Graph
from serve_app.api.failures import internal
from serve_app.api.schemas import ModelList, ModelOut, Readiness, model_out
from serve_app.errors import FrugalError, ModelNotFound

router = APIRouter()
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/v1/models", summary="List models", tags=["Models"])
async def models(services: Graph) -> ModelList:
    """Every configured model; one that is still loading says so."""
    cards = {card.id: card for card in await services.cards()}
    return ModelList(data=[model_out(id, cards.get(id)) for id in services.model_ids()])


@router.get("/v1/models/{model_id:path}", summary="One model", tags=["Models"], responses={404: examples.NO_MODEL})
async def model(model_id: str, services: Graph) -> ModelOut:
    """One model by its id, which may hold slashes."""
    known = services.model_ids()
    if model_id not in known:
        raise ModelNotFound(f"model: there is no {model_id[:200]!r} here; ask for one of {', '.join(known)}", param="model")
    cards = {card.id: card for card in await services.cards()}
    return model_out(model_id, cards.get(model_id))


@router.get("/health", summary="Is the process alive?", tags=["Operation"])
async def health() -> dict[str, str]:
    """Always 200 while this process can answer at all, whatever the model does."""
    return {"status": "ok"}


@router.get(
    "/ready",
    summary="Would a request be answered now?",
    tags=["Operation"],
    responses={200: {"model": Readiness}, 503: {"model": Readiness, "description": "Not yet; `waiting_for` and `errors` say why"}},
)
async def ready(request: Request, services: Graph) -> Response:
    """200 when every part is there, else 503 with what is missing in plain words."""
    try:
        state = await services.ready()
    except FrugalError as error:
        state = {"ready": False, "waiting_for": [], "errors": [error.message]}
    except Exception as error:
        state = {"ready": False, "waiting_for": [], "errors": [internal(error, request.scope).message]}
    return JSONResponse(state, 200 if state.get("ready") is True else 503)


@router.get("/metrics", summary="Prometheus metrics of all replicas", tags=["Operation"], response_class=PlainTextResponse)
async def metrics(request: Request, services: Graph) -> Response:
    """Always 200: a part that is restarting must not blank every dashboard. A comment says what is missing."""
    try:
        text = await services.metrics()
    except Exception as error:
        text = f"# {internal(error, request.scope).message}\n"
    return Response(text, media_type=PROMETHEUS)


@router.get("/v1/report", summary="What was asked, spent and avoided", tags=["Operation"])
async def report(services: Graph) -> dict[str, Any]:
    """Requests by outcome, tokens, compute-seconds spent and avoided, and the cost on its two bases (usage, allocation)."""
    return await services.report()
