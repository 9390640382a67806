"""POST /v1/chat/completions and /v1/completions: from a checked body to a whole reply or a stream of events.

The HTTP status of a stream waits for the first item after the opening, so that an overload or a prompt that is too long is a 429 or a 400
and not a 200 that breaks off. Tests: tests/fast/test_api_completions.py, tests/fast/test_api_stream.py; with OpenAI's own client:
tests/fast/test_api_openai_client.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve_app.api import cache_control, choices, examples, replies
from serve_app.api.connection import ClientGone, EventStream, close, unless_gone
from serve_app.api.dependencies import Graph
from serve_app.api.failures import internal, request_id_of
from serve_app.api.openai import ChatRequest, CompletionRequest, StreamOptions
from serve_app.api.services import Services
from serve_app.errors import DeadlineExceeded, FrugalError, GenerationFailed, ModelNotFound, TimedOut
from serve_app.messages import Answer, Ask, Chunk, Finish, Item, Opening

log = logging.getLogger(__name__)
router = APIRouter(tags=["Completions"])


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a request may take: the server's limit or its own `timeout_s`, whichever is shorter.

    It is kept here and not in the engines, on purpose: at its end this caller leaves the answer as one that hangs up does, so that whoever
    has joined it meanwhile still gets it whole, and the engine gives it up within a step where nobody has. Waiting in the engine's line
    counts, because the clock runs from the request's arrival.
    """

    seconds: float
    own: bool

    @classmethod
    def of(cls, server_s: float, own_s: float | None) -> Limit:
        """The shorter one."""
        return cls(server_s, own=False) if own_s is None or own_s > server_s else cls(own_s, own=True)

    def error(self) -> FrugalError:
        """What the caller is told."""
        if self.own:
            said = f"timeout_s: the answer took longer than {self.seconds:g} s; ask for fewer tokens with max_tokens, or allow more time"
            return DeadlineExceeded(said, param="timeout_s")
        remedy = "ask for fewer tokens with max_tokens, or try again later"
        return TimedOut(f"the answer took longer than request_timeout_s, {self.seconds:g} s; {remedy}")


@router.post("/v1/chat/completions", summary="Answer a conversation", responses=examples.CHAT)
async def chat(body: ChatRequest, request: Request, services: Graph) -> Response:
    """OpenAI's chat completion, plain or as server-sent events. The conversation goes through the model's chat template.

    Control of the answer cache: the header `Cache-Control` with `no-cache`, `no-store`, `max-age=N`, `max-stale[=N]`, `min-fresh=N` and
    `only-if-cached`, or the same in the body's `cache`, which knows `ttl`, `sampled` and `similar` besides; of both, the stricter holds.
    The reply, streamed or not, says how it was made in `x-cache` (hit, stale, similar, join, miss, bypass), under which key in
    `x-cache-key`, and how old a stored answer is in `age`; what it took is in the object `frugal`. Where the answer is that of a question
    in other words, `x-cache-similarity` says how near that is. Of `n` answers, `x-cache` tells the costliest way (hit: all were stored),
    `age` is that of the oldest where all were stored, and `x-cache-key` is the first one's. `timeout_s` ends the request with a 504.
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
    header = cache_control.parse(", ".join(request.headers.getlist("cache-control")))
    asks = [replace(ask, policy=cache_control.combine(ask.policy, header)) for ask in body.asks(request_id, settings.sampling)]
    limit = Limit.of(settings.request_timeout_s, body.timeout_s)
    fingerprint = await _fingerprint(services, body.model)
    head = replies.Head(kind, request_id, body.model, int(time.time()), fingerprint, body.num_logprobs is not None)
    try:
        if body.stream:
            return await _stream(request, services, asks, limit, head, body.stream_options)
        answers = await unless_gone(request.receive, _answers(services, asks, limit))
        return JSONResponse(replies.whole(head, answers), headers=_headers([answer.opening for answer in answers]))
    except ClientGone:
        return Response(status_code=499)  # reaches the metrics; there is nobody to read it


async def _fingerprint(services: Services, model: str) -> str | None:
    try:
        return replies.short_fingerprint(await services.cards(), model)
    except FrugalError:
        return None  # a missing card is no reason to refuse an answer


async def _answers(services: Services, asks: Sequence[Ask], limit: Limit) -> list[Answer]:
    try:
        async with asyncio.timeout(limit.seconds) as clock:
            return await choices.answers(services, asks)
    except TimeoutError:
        raise (limit.error() if clock.expired() else GenerationFailed("a part of the server did not answer in time")) from None


async def _stream(
    request: Request, services: Services, asks: Sequence[Ask], limit: Limit, head: replies.Head, options: StreamOptions | None
) -> Response:
    items = _in_time(choices.streams(services, asks), limit)
    try:
        openings, first = await unless_gone(request.receive, _peek(items, len(asks)))
    except BaseException:
        await close(items)
        raise
    events = _events(request, items, first, replies.Chunks(head, openings, options))
    return EventStream(events, items, _headers(openings))


async def _in_time(items: AsyncIterator[tuple[int, Item]], limit: Limit) -> AsyncIterator[tuple[int, Item]]:
    """The same items, within the limit for the whole request."""
    deadline = asyncio.get_running_loop().time() + limit.seconds
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline) as clock:
                    item = await anext(items)
            except TimeoutError:
                raise (limit.error() if clock.expired() else GenerationFailed("a part of the server did not answer in time")) from None
            except StopAsyncIteration:
                return
            yield item
    finally:
        await close(items)


async def _peek(items: AsyncIterator[tuple[int, Item]], num_choices: int) -> tuple[list[Opening], list[tuple[int, Item]]]:
    """The opening of every choice, and what came of the answers meanwhile: at least one item."""
    openings: dict[int, Opening] = {}
    first: list[tuple[int, Item]] = []
    while len(openings) < num_choices or not first:
        index, item = await anext(items)
        if isinstance(item, Opening):
            openings[index] = item
        else:
            first.append((index, item))
    return [openings[index] for index in range(num_choices)], first


async def _events(
    request: Request, items: AsyncIterator[tuple[int, Item]], first: Sequence[tuple[int, Item]], chunks: replies.Chunks
) -> AsyncIterator[bytes]:
    try:
        for index, item in first:
            if event := _event(chunks, index, item):
                yield event
        async for index, item in items:
            if event := _event(chunks, index, item):
                yield event
        yield replies.DONE
    except FrugalError as error:
        yield replies.failure(error)
    except Exception as error:
        yield replies.failure(internal(error, request.scope))


def _event(chunks: replies.Chunks, index: int, item: Item) -> bytes:
    if isinstance(item, Finish):
        return chunks.last(index, item)
    assert isinstance(item, Chunk), "a stream has one opening, and a wrong ending is raised"
    return chunks.piece(index, item)


def _headers(openings: Sequence[Opening]) -> dict[str, str]:
    headers = {"x-cache": replies.outcome(openings), "x-cache-key": openings[0].key}
    age_s = replies.age_s(openings)
    if age_s is not None:
        headers["age"] = str(int(max(0.0, age_s)))  # RFC 9111, section 5.1: whole seconds
    similarity = replies.similarity(openings)
    if similarity is not None:
        headers["x-cache-similarity"] = f"{similarity:.3f}"
    return headers
