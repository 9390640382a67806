"""Questions asked ahead of time: lines of requests, answered the way of all requests, at batch priority and a few at a time.

Tests: tests/fast/test_api_admin.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pydantic

from serve_app.api.fields import bad_request
from serve_app.api.openai import ChatRequest, CompletionRequest
from serve_app.api.services import Services
from serve_app.errors import BadRequest, FrugalError, ModelNotFound, TimedOut
from serve_app.messages import Ask

log = logging.getLogger(__name__)

Line = tuple[int, bytes]


def numbered_lines(body: bytes) -> Iterator[Line]:
    """The lines that hold something, counted from 1 as an editor does."""
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            yield number, line


async def results(services: Services, lines: Iterable[Line], concurrency: int, request_id: str) -> AsyncGenerator[bytes, None]:
    """One JSON line for each, as they end."""
    waiting = iter(lines)
    running: set[asyncio.Task[dict[str, Any]]] = set()
    try:
        while True:
            while len(running) < concurrency and (line := next(waiting, None)) is not None:
                running.add(asyncio.create_task(_warmed(services, line, request_id)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield json.dumps(task.result()).encode() + b"\n"
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _warmed(services: Services, line: Line, request_id: str) -> dict[str, Any]:
    number, text = line
    try:
        asks = _asks(services, text, f"{request_id}-{number}")
        async with asyncio.timeout(services.settings.request_timeout_s):
            answers = [await services.answer(ask) for ask in asks]
    except TimeoutError:
        return {"line": number, "error": TimedOut("the answer took longer than request_timeout_s").body()["error"]}
    except FrugalError as error:
        return {"line": number, "error": error.body()["error"]}
    except Exception:
        log.exception("request %s-%s: warming failed", request_id, number)
        return {"line": number, "error": FrugalError(f"internal error; the log has it under {request_id}-{number}").body()["error"]}
    first = answers[0]
    spent = sum(answer.finish.compute_s for answer in answers if answer.opening.outcome in ("miss", "bypass"))
    return {"line": number, "cache": first.opening.outcome, "key": first.opening.key, "compute_s": spent}


def _asks(services: Services, text: bytes, request_id: str) -> list[Ask]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("the line is not valid JSON; write one request per line") from None
    model = CompletionRequest if isinstance(fields, dict) and "prompt" in fields else ChatRequest
    try:
        body = model.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise bad_request(error.errors(), model) from None
    if body.model not in (known := services.model_ids()):
        raise ModelNotFound(f"model: there is no {body.model[:200]!r} here; write one of {', '.join(known)}", param="model")
    return [replace(ask, generate=replace(ask.generate, priority="batch")) for ask in body.asks(request_id, services.settings.sampling)]
