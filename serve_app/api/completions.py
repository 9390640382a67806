"""POST /v1/chat/completions and /v1/completions: from a checked body to a whole reply or a stream of events.

The HTTP status of a stream waits for the first item after the opening, so that an overload or a prompt that is too long is a 429 or a 400
and not a 200 that breaks off. Tests: tests/fast/test_api_completions.py, tests/fast/test_api_stream.py; with OpenAI's own client:
tests/fast/test_api_openai_client.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve_app.api import cache_control, examples, replies
from serve_app.api.connection import ClientGone, EventStream, close, unless_gone
from serve_app.api.dependencies import Graph
from serve_app.api.failures import internal, request_id_of
from serve_app.api.openai import ChatRequest, CompletionRequest, StreamOptions
from serve_app.api.services import Services
from serve_app.errors import FrugalError, GenerationFailed, ModelNotFound, TimedOut
from serve_app.messages import Answer, Ask, Chunk, Failed, Finish, Item, Opening

log = logging.getLogger(__name__)
router = APIRouter(tags=["Completions"])


@router.post("/v1/chat/completions", summary="Answer a conversation", responses=examples.CHAT)
async def chat(body: ChatRequest, request: Request, services: Graph) -> Response:
    """OpenAI's chat completion, plain or as server-sent events. The conversation goes through the model's chat template.

    Control of the answer cache: the header `Cache-Control: no-cache | no-store | max-age=N`, or the body's `cache`. The reply says how it
    was made in `x-cache` (hit, join, miss, bypass), `age` and `x-cache-key`, and what it took in the object `frugal`.
    """
    if body.user is not None or body.metadata is not None:
        log.info("request %s: user=%r metadata=%r", request_id_of(request.scope), body.user, body.metadata)
    return await _complete(request, services, body, "chat")


@router.post("/v1/completions", summary="Continue a text", responses=examples.TEXT)
async def completions(body: CompletionRequest, request: Request, services: Graph) -> Response:
    """OpenAI's older completion: the prompt is taken as it is, without the chat template. Cache control as for chat completions."""
    if body.user is not None:
        log.info("request %s: user=%r", request_id_of(request.scope), body.user)
    return await _complete(request, services, body, "text")


async def _complete(request: Request, services: Services, body: ChatRequest | CompletionRequest, kind: replies.Kind) -> Response:
    known = services.model_ids()
    if body.model not in known:
        raise ModelNotFound(f"model: there is no {body.model[:200]!r} here; send one of {', '.join(known)}", param="model")
    settings = services.settings
    request_id = request_id_of(request.scope)
    ask = body.ask(request_id, settings.sampling)
    header = cache_control.parse(", ".join(request.headers.getlist("cache-control")))
    ask = replace(ask, policy=cache_control.combine(ask.policy, header))
    head = replies.Head(kind, request_id, body.model, int(time.time()), await _fingerprint(services, body.model))
    try:
        if body.stream:
            return await _stream(request, services, ask, head, body.stream_options)
        answer = await unless_gone(request.receive, _answer(services, ask, settings.request_timeout_s))
        return JSONResponse(replies.whole(head, answer), headers=_headers(answer.opening))
    except ClientGone:
        return Response(status_code=499)  # reaches the metrics; there is nobody to read it


async def _fingerprint(services: Services, model: str) -> str | None:
    try:
        return replies.short_fingerprint(await services.cards(), model)
    except FrugalError:
        return None  # a missing card is no reason to refuse an answer


async def _answer(services: Services, ask: Ask, limit_s: float) -> Answer:
    try:
        async with asyncio.timeout(limit_s) as clock:
            return await services.answer(ask)
    except TimeoutError:
        raise (_too_slow(limit_s) if clock.expired() else GenerationFailed("a part of the server did not answer in time")) from None


async def _stream(request: Request, services: Services, ask: Ask, head: replies.Head, options: StreamOptions | None) -> Response:
    limit_s = services.settings.request_timeout_s
    items = _in_time(services.stream(ask), limit_s)
    try:
        opening, first = await unless_gone(request.receive, _peek(items))
    except BaseException:
        await close(items)
        raise
    events = _events(request, items, first, replies.Chunks(head, opening, options))
    return EventStream(events, items, _headers(opening))


async def _in_time(items: AsyncIterator[Item], limit_s: float) -> AsyncIterator[Item]:
    """The same items up to the ending, within the limit for the whole request; every wrong ending becomes a raised error."""
    deadline = asyncio.get_running_loop().time() + limit_s
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline) as clock:
                    item = await anext(items)
            except TimeoutError:
                raise (_too_slow(limit_s) if clock.expired() else GenerationFailed("a part of the server did not answer in time")) from None
            except StopAsyncIteration:
                raise GenerationFailed("the answer broke off without an ending; send the request again") from None
            if isinstance(item, Failed):
                raise item.error
            yield item
            if isinstance(item, Finish):
                return
    finally:
        await close(items)


async def _peek(items: AsyncIterator[Item]) -> tuple[Opening, Chunk | Finish]:
    opening = await anext(items)
    assert isinstance(opening, Opening), "a stream begins with its opening"
    first = await anext(items)
    assert isinstance(first, Chunk | Finish), "a stream has one opening"
    return opening, first


async def _events(request: Request, items: AsyncIterator[Item], first: Chunk | Finish, chunks: replies.Chunks) -> AsyncIterator[bytes]:
    try:
        item: Item = first
        while isinstance(item, Chunk):
            if event := chunks.piece(item.text, item.num_tokens):
                yield event
            item = await anext(items)
        assert isinstance(item, Finish)
        yield chunks.last(item)
        yield replies.DONE
    except FrugalError as error:
        yield replies.failure(error)
    except Exception as error:
        yield replies.failure(internal(error, request.scope))


def _too_slow(limit_s: float) -> FrugalError:
    said = f"the answer took longer than request_timeout_s, {limit_s:g} s; ask for fewer tokens with max_tokens, or try again later"
    return TimedOut(said)


def _headers(opening: Opening) -> dict[str, str]:
    headers = {"x-cache": opening.outcome, "x-cache-key": opening.key}
    if opening.age_s is not None:
        headers["age"] = str(int(max(0.0, opening.age_s)))  # RFC 9111, section 5.1: whole seconds
    return headers
