"""Every error as OpenAI's error JSON, whoever raised it: our code, pydantic, the router, or a bug.

A 500 shows the request's id and nothing else; the log has the cause under the same id. Tests: tests/fast/test_api_errors.py.
"""

from __future__ import annotations

import logging
import math
import typing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from serve_app.api.fields import bad_request, shown
from serve_app.errors import BadRequest, FrugalError, NotCached, NotFound

log = logging.getLogger(__name__)


class MethodNotAllowed(FrugalError):
    """The path exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


def install(app: FastAPI) -> None:
    """Let these handlers answer for everything that a route raises."""
    app.add_exception_handler(FrugalError, _frugal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def response_for(error: FrugalError, headers: dict[str, str] | None = None) -> Response:
    """The error's status, body and, where trying again later helps, Retry-After in whole seconds."""
    if error.retry_after_s is not None and error.status in (429, 503):
        headers = {**(headers or {}), "Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, NotCached):
        headers = {**(headers or {}), "x-should-retry": "false"}  # OpenAI's clients would send any other 504 twice more
    if error.status == 401:
        headers = {**(headers or {}), "WWW-Authenticate": "Bearer"}  # RFC 9110, section 15.5.2
    return JSONResponse(_printable(error.body()), error.status, headers)


def internal(error: BaseException, scope: Scope) -> FrugalError:
    """Log a bug with its cause, and give what the caller may know of it."""
    request_id = request_id_of(scope)
    log.error("request %s: %s %s failed", request_id, scope.get("method"), scope.get("path"), exc_info=error)
    return FrugalError(f"internal error; the server's log has the cause under request {request_id}")


def request_id_of(scope: Scope) -> str:
    """The id that the middleware gave this request."""
    return str(scope.get("state", {}).get("request_id", "unknown"))


async def _frugal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, FrugalError)
    return response_for(error)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = shown(request.url.path)
    if error.status_code == 404:
        return response_for(NotFound(f"there is nothing at {path}; /docs lists every path"))
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        methods = allowed.get("Allow") or allowed.get("allow", "another method")
        return response_for(MethodNotAllowed(f"{request.method} is not allowed at {path}; use {methods}"), allowed)
    # FastAPI says so for a body that json.loads gave up on without a position: nested too deeply, or not UTF-8.
    return response_for(BadRequest("the body cannot be read as JSON; send one JSON object in UTF-8"))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = list(error.errors())
    return response_for(_unreadable(request, errors[0]) or bad_request(errors, _model_of(request, str(errors[0]["loc"][0]))))


def _unreadable(request: Request, error: dict[str, Any]) -> BadRequest | None:
    """A mistake in the body as a whole, before any field of it."""
    if error["type"] == "json_invalid":
        return BadRequest(f"the body is not valid JSON: {error['ctx']['error']} at character {error['loc'][-1]}; send one JSON object")
    if tuple(error["loc"]) != ("body",):
        return None
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if not (media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))):
        return BadRequest(f"the body has the content type {shown(content_type)}; send JSON with Content-Type: application/json")
    return BadRequest("the body is not a JSON object; send one, as /docs shows it")


def _model_of(request: Request, where: str) -> type[BaseModel] | None:
    """The model behind a route's parameter `body` or `query`."""
    endpoint = getattr(request.scope.get("route"), "endpoint", None)
    model = typing.get_type_hints(endpoint).get(where) if endpoint else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _printable(body: dict[str, Any]) -> dict[str, Any]:
    """The same without lone surrogates, which JSON strings may hold and UTF-8 may not."""
    error = {key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for key, value in body["error"].items()}
    return {"error": error}
