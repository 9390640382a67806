"""What /v1/admin/cache takes and sends: models of the wire. No I/O. Times are Unix seconds. Tests: tests/fast/test_api_admin.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.admin_key import SHA256
from serve_app.api.fields import Query
from serve_app.api.schemas import Listing
from serve_app.errors import BadRequest
from serve_app.messages import FinishReason, Selection
from serve_app.store.answers import Entry, Place


class SelectionParams(Query):
    """Which stored answers."""

    key: str | None = Field(None, pattern=f"^{SHA256}$", description="64 hex digits, as x-cache-key says")
    model: str | None = Field(None, max_length=500, description="the id of a model")
    feed: str | None = Field(None, max_length=64, description="the id of a feed, see GET /v1/feeds")
    older_than_s: float | None = Field(None, ge=0, le=1e10, description="seconds: only what is older than that")

    def selection(self, now: float) -> Selection:
        """The same in our words."""
        return Selection(self.key, self.model, self.feed, None if self.older_than_s is None else now - self.older_than_s)


class DeleteParams(SelectionParams):
    """Which answers to delete."""

    all: bool = Field(False, description="true: every stored answer is meant")

    @model_validator(mode="after")
    def _says_what(self) -> DeleteParams:
        given = any(value is not None for value in (self.key, self.model, self.feed, self.older_than_s))
        if given == self.all:
            what = "it goes with no condition" if given else "nothing says which answers"
            raise ValueError(f"{what}; send key, model, feed or older_than_s, or all=true for every answer")
        return self


class EntryParams(SelectionParams):
    """A page of a list."""

    limit: int = Field(20, ge=1, le=100, description="a whole number from 1 to 100")
    cursor: str | None = Field(None, max_length=200, description="next_cursor of the page before")

    def place(self) -> Place | None:
        """Where the page before ended."""
        if self.cursor is None:
            return None
        created_at, _, key = self.cursor.partition("_")
        try:
            return float(created_at), key
        except ValueError:
            raise BadRequest("cursor: is none that was handed out; send next_cursor of the page before", param="cursor") from None


class WarmParams(Query):
    """How to warm."""

    concurrency: int = Field(4, ge=1, le=64, description="a whole number from 1 to 64: requests at a time")


class _Sent(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class EntryOut(_Sent):
    """A stored answer without its text."""

    object: Literal["stored_answer"] = "stored_answer"
    key: str
    model: str
    feed_id: str
    created_at: float
    ttl_s: float | None = Field(description="time to live that its request asked for, null: the configured one")
    size_bytes: int
    compute_s: float = Field(description="what a hit saves, in compute-seconds on one replica")
    hits: int = Field(description="without what Ingress replayed")
    value: float = Field(description="compute-seconds saved per byte, ageing: the lowest gives way first")


class EntryFull(EntryOut):
    """A stored answer."""

    scope: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    has_logprobs: bool


class EntryList(Listing[EntryOut]):
    """A page of stored answers."""


class GroupOut(_Sent):
    """The stored answers of one model on behalf of one feed, or of none ("")."""

    model: str
    feed_id: str
    entries: int
    size_bytes: int
    hits: int


class StoredTotals(BaseModel):
    """How much is stored."""

    entries: int
    size_bytes: int
    groups: Sequence[GroupOut]


class Deleted(BaseModel):
    """What a deletion did."""

    deleted: int
    replicas_told: int = Field(description="replicas of AnswerCache and Ingress that were told to forget what they keep in memory")


class Imported(BaseModel):
    """What an import did."""

    stored: int
    not_newer: int = Field(description="answers that were here, as new or newer")
    refused: int
    errors: Sequence[dict[str, Any]] = Field(description="line and error of the first refused ones")


def cursor_of(entry: Entry) -> str:
    """Says where a page ended."""
    return f"{entry.created_at!r}_{entry.key}"
