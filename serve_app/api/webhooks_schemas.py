"""What /v1/webhooks takes and sends: models of the wire. No I/O. Times are Unix seconds. Tests: tests/fast/test_api_webhooks.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.api.fields import Body, Query
from serve_app.api.schemas import Listing
from serve_app.store.webhooks import Delivery


class WebhookOut(BaseModel):
    """A webhook of the configuration and how it does. Its secret and the path of its address are nowhere."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    object: Literal["webhook"] = "webhook"
    id: str
    shown: str = Field(description="scheme and host of its address")
    events: Sequence[str]
    feeds: Sequence[str]
    tags: Sequence[str]
    state: Literal["active", "disabled", "removed"] = Field(
        description="disabled: its receiver answered with 410, and its settings have not changed since; removed: it left the configuration"
    )
    reason: str | None
    pending: int = Field(description="messages that wait for it")
    dead: int = Field(description="messages that were given up after about a day; see /dead")
    num_delivered: int
    num_errors: int = Field(description="failed tries since the last success")
    last_status: int | None
    last_error: str | None
    last_success_at: float | None
    last_failure_at: float | None


class WebhookList(Listing[WebhookOut]):
    """All webhooks."""


class DeadParams(Query):
    """Query string of the dead letters."""

    limit: int = Field(20, ge=1, le=100, description="a whole number from 1 to 100")


class DeadOut(BaseModel):
    """A message that was given up."""

    object: Literal["delivery"] = "delivery"
    id: str = Field(description="its webhook-id")
    event: str
    created_at: float
    attempts: int
    last_status: int | None
    last_error: str | None
    body: dict[str, Any] = Field(description="the message as it was sent")


class DeadList(Listing[DeadOut]):
    """Dead letters, the newest first."""


class Redeliver(Body):
    """Body of POST /v1/webhooks/{id}/redeliver."""

    ids: list[str] | None = Field(None, min_length=1, max_length=1000, description="a list of ids of dead letters; without it, all of them")


class Redelivered(BaseModel):
    """How many are sent again."""

    object: Literal["redelivery"] = "redelivery"
    redelivered: int


class Queued(BaseModel):
    """The message that will be sent."""

    object: Literal["delivery"] = "delivery"
    id: str = Field(description="its webhook-id")
    event: str = "webhook.test"


def dead_out(delivery: Delivery) -> DeadOut:
    """For the list of dead letters."""
    values = {name: getattr(delivery, name) for name in ("id", "event", "created_at", "attempts", "last_status", "last_error")}
    return DeadOut(**values, body=json.loads(delivery.body))
