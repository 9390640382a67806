"""/v1/webhooks: how the configured webhooks do, and what their receivers did not take. Thin: the work is the store's and Feeds'.

Who may see the server may see their health; sending something needs the admin key. Tests: tests/fast/test_api_webhooks.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Query as InQuery

from serve_app.api import examples
from serve_app.api.dependencies import Graph, needs_admin_key
from serve_app.api.webhooks_schemas import DeadList, DeadParams, Queued, Redeliver, Redelivered, WebhookList, WebhookOut, dead_out

router = APIRouter(prefix="/v1/webhooks", tags=["Webhooks"])
NOT_ACTIVE: dict[str, Any] = {"description": "The webhook is disabled or left the configuration"}
SENDS: dict[str, Any] = {
    "status_code": 202,
    "dependencies": [Depends(needs_admin_key)],
    "responses": {401: examples.NO_KEY, 403: examples.NO_KEY_SET_UP, 404: examples.MISSING, 409: NOT_ACTIVE},
}


@router.get("", summary="List webhooks with their health")
async def webhooks(services: Graph) -> WebhookList:
    """Those of the configuration, and those that left it while messages still waited for them."""
    return WebhookList(data=[WebhookOut.model_validate(one) for one in await services.webhooks()])


@router.get("/{webhook_id}/dead", summary="List what a receiver did not take", responses={400: examples.BAD, 404: examples.MISSING})
async def dead(webhook_id: str, query: Annotated[DeadParams, InQuery()], services: Graph) -> DeadList:
    """Messages that were given up after about a day of tries, the newest first. They are kept for 30 days."""
    found = await services.dead_letters(webhook_id, query.limit + 1)
    return DeadList(data=[dead_out(one) for one in found[: query.limit]], has_more=len(found) > query.limit)


@router.post("/{webhook_id}/redeliver", summary="Send dead letters again", **SENDS)
async def redeliver(webhook_id: str, services: Graph, body: Redeliver | None = None) -> Redelivered:
    """All of them, or those that `ids` names. They keep their ids and get a day of tries again."""
    return Redelivered(redelivered=await services.redeliver(webhook_id, _ids(body)))


@router.post("/{webhook_id}/test", summary="Send a test message", **SENDS)
async def test(webhook_id: str, services: Graph) -> Queued:
    """A signed message of type `webhook.test`, sent after the reply; the webhook's health shows how it went."""
    return Queued(id=await services.test_webhook(webhook_id))


def _ids(body: Redeliver | None) -> tuple[str, ...] | None:
    return None if body is None or body.ids is None else tuple(body.ids)
