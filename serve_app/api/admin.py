"""/v1/admin/cache: what an administrator does with the stored answers. Every route wants the admin key.

Thin: the work is in cache/stored.py. Tests: tests/fast/test_api_admin.py.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as InQuery

from serve_app.api import examples, warm
from serve_app.api.admin_schemas import (
    Deleted,
    DeleteParams,
    EntryFull,
    EntryList,
    EntryOut,
    EntryParams,
    GroupOut,
    Imported,
    SelectionParams,
    StoredTotals,
    WarmParams,
    cursor_of,
)
from serve_app.api.connection import JsonLines
from serve_app.api.dependencies import Graph, needs_admin_key
from serve_app.api.failures import request_id_of
from serve_app.errors import BadRequest, NotFound
from serve_app.store.answer_lines import from_line
from serve_app.store.answers import StoredAnswer

MAX_REFUSED = 100  # lines of an import that are told one by one

router = APIRouter(
    prefix="/v1/admin/cache",
    tags=["Administration"],
    dependencies=[Depends(needs_admin_key)],
    responses={401: examples.NO_KEY, 403: examples.NO_KEY_SET_UP, 503: examples.STORE_DOWN},
)


@router.get("", summary="How much is stored, by model and feed")
async def totals(services: Graph) -> StoredTotals:
    """Entries, bytes and hits of the stored answers. It reads all of them: with millions, this takes seconds."""
    groups = [GroupOut.model_validate(group) for group in await services.stored.groups()]
    return StoredTotals(entries=sum(group.entries for group in groups), size_bytes=sum(group.size_bytes for group in groups), groups=groups)


@router.get("/entries", summary="List stored answers, newest first", responses={400: examples.BAD})
async def entries(query: Annotated[EntryParams, InQuery()], services: Graph) -> EntryList:
    """Without their texts. Page on with `next_cursor`."""
    found = await services.stored.page(query.selection(time.time()), query.limit + 1, query.place())
    data = [EntryOut.model_validate(entry) for entry in found[: query.limit]]
    more = len(found) > query.limit
    return EntryList(data=data, has_more=more, next_cursor=cursor_of(found[query.limit - 1]) if more else None)


@router.get("/entries/{key}", summary="One stored answer with its text", responses={404: examples.MISSING})
async def entry(key: str, services: Graph) -> EntryFull:
    """`key` is what `x-cache-key` said."""
    found = await services.stored.find(key)
    if found is None:
        raise NotFound("there is no stored answer under this key; x-cache-key of a reply is its key")
    known, answer = found
    return EntryFull(
        **EntryOut.model_validate(known).model_dump(),
        scope=answer.scope,
        text=answer.text,
        finish_reason=answer.finish.reason,
        prompt_tokens=answer.finish.usage.prompt_tokens,
        completion_tokens=answer.finish.usage.completion_tokens,
        has_logprobs=bool(answer.logprobs),
    )


@router.delete("/entries", summary="Delete stored answers", responses={400: examples.BAD})
async def delete(query: Annotated[DeleteParams, InQuery()], services: Graph) -> Deleted:
    """By key, model, feed and age: all conditions that are given must hold. Without any, `all=true` must say that everything is meant.

    When the reply is there, no replica serves a deleted answer from its memory any more. One that was being sent is sent to its end, and
    one that was on its way to Ingress at this moment may be replayed there for `replay_s`.
    """
    deleted, told = await services.stored.delete(query.selection(time.time()))
    return Deleted(deleted=deleted, replicas_told=told)


@router.get("/export", summary="All stored answers as JSON lines", responses={400: examples.BAD})
async def export(query: Annotated[SelectionParams, InQuery()], services: Graph) -> Response:
    """One answer per line, each with a digest of itself, the newest first. Keep it as a file: `import` takes it."""
    lines = services.stored.lines(query.selection(time.time()))
    first = await anext(lines, None)  # so that a store that is down is a 503, and not a 200 that breaks off

    async def events() -> AsyncIterator[bytes]:
        if first is not None:
            yield f"{first}\n".encode()
        async for line in lines:
            yield f"{line}\n".encode()

    return JsonLines(events(), lines, {})


@router.post("/import", summary="Store answers that were exported", responses={400: examples.BAD, 413: examples.TOO_LARGE})
async def import_(request: Request, services: Graph) -> Imported:
    """The body is lines of an export. One that is damaged, or of a model that is not served here, is refused and told; the rest is stored.

    An answer that is here and as new or newer is never replaced. Answers of other weights under the same name do no harm: the weights'
    fingerprint is part of the key, so that nobody's question finds them. The digest finds damage; it does not prove who made an answer, so
    import only what you trust as you trust the model.
    """
    known = services.model_ids()
    good: list[StoredAnswer] = []
    refused: list[dict[str, Any]] = []
    for number, line in warm.numbered_lines(await request.body()):
        try:
            answer = from_line(line)
            if answer.model not in known:
                raise ValueError(f"its model {answer.model[:200]!r} is not served here")
        except ValueError as error:
            refused.append({"line": number, "error": str(error)})
        else:
            good.append(answer)
    if not good and not refused:
        raise BadRequest("the body is empty; send lines of an export")
    stored = await services.stored.take(good)
    return Imported(stored=stored, not_newer=len(good) - stored, refused=len(refused), errors=refused[:MAX_REFUSED])


@router.post("/warm", summary="Ask questions ahead of time", responses={400: examples.BAD, 413: examples.TOO_LARGE})
async def warm_(query: Annotated[WarmParams, InQuery()], request: Request, services: Graph) -> Response:
    """The body is JSON lines, each the body of a chat completion or, with `prompt`, of a completion.

    They go the way of all requests, with batch priority and at most `concurrency` at a time. The reply has one JSON line for each, as they
    end: its number, how it was answered and under which key, or why not.
    """
    lines = list(warm.numbered_lines(await request.body()))
    if not lines:
        raise BadRequest("the body is empty; send one request per line")
    results = warm.results(services, lines, query.concurrency, request_id_of(request.scope))
    return JsonLines(results, results, {})
