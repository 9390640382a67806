"""Responses as /docs and /openapi.json show them: statuses, examples and the shape of an error. Data only."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]

_USAGE = {"prompt_tokens": 31, "completion_tokens": 12, "total_tokens": 43, "prompt_tokens_details": {"cached_tokens": 16}}
_FRUGAL = {
    "cache": "miss",
    "age_s": None,
    "compute_s": 0.41,
    "avoided_s": 0.0,
    "cost_usd": 0.0000057,
    "batch_size": 4,
    "ttft_s": 0.09,
    "queue_s": 0.02,
}
_HEAD = {"created": 1795372800, "model": "smollm2-135m-instruct", "system_fingerprint": "5d1f0c8e7a3b9264"}
_CHAT = {
    "id": "chatcmpl-1f0e",
    "object": "chat.completion",
    **_HEAD,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris is the capital of France.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
    "frugal": _FRUGAL,
}
_CHAT_LOGPROBS = {
    **_CHAT,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris", "refusal": None},
            "logprobs": {
                "content": [
                    {
                        "token": "Paris",
                        "logprob": -0.31,
                        "bytes": [80, 97, 114, 105, 115],
                        "top_logprobs": [
                            {"token": "Paris", "logprob": -0.31, "bytes": [80, 97, 114, 105, 115]},
                            {"token": "The", "logprob": -1.62, "bytes": [84, 104, 101]},
                        ],
                    }
                ],
                "refusal": None,
            },
            "finish_reason": "stop",
        }
    ],
}
_TEXT = {
    "id": "cmpl-1f0e",
    "object": "text_completion",
    **_HEAD,
    "choices": [{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}],
    "usage": _USAGE,
    "frugal": _FRUGAL,
}
_TEXT_LOGPROBS = {
    **_TEXT,
    "choices": [
        {
            "index": 0,
            "text": " Paris.",
            "logprobs": {
                "tokens": [" Paris", "."],
                "token_logprobs": [-0.42, -0.08],
                "top_logprobs": [{" Paris": -0.42}, {".": -0.08}],
                "text_offset": [0, 6],
            },
            "finish_reason": "stop",
        }
    ],
}


def _error(description: str, message: str, type: str, code: str, param: str | None = None) -> dict[str, Any]:
    body = {"error": {"message": message, "type": type, "param": param, "code": code}}
    return {"description": description, "content": {"application/json": {"example": body}}}


def _either(description: str, **errors: dict[str, Any]) -> dict[str, Any]:
    """One status with several meanings."""
    named = {
        name: {"summary": error["description"], "value": error["content"]["application/json"]["example"]} for name, error in errors.items()
    }
    return {"description": description, "content": {"application/json": {"examples": named}}}


def _ok(description: str, **examples: dict[str, Any]) -> dict[str, Any]:
    named = {name: {"summary": name.replace("_", " "), "value": example} for name, example in examples.items()}
    return {"description": description, "content": {"application/json": {"examples": named}}}


BAD = _error(
    "A field that is wrong or not served; the message names it, its limit and the remedy",
    "temperature: input should be less than or equal to 2, not 3; send a number from 0 (greedy) to 2",
    "invalid_request_error",
    "invalid_value",
    "temperature",
)
MISSING = _error("There is nothing under this id", "there is no such thing", "invalid_request_error", "not_found")
NO_MODEL = _error(
    "No model of this name is served",
    "model: there is no 'gpt-9' here; send one of smollm2-135m-instruct",
    "invalid_request_error",
    "model_not_found",
    "model",
)
BUSY = _error(
    "A queue is full; Retry-After says when to come back", "256 requests are waiting; try again in 4 s", "rate_limit_error", "overloaded"
)
LOADING = _error(
    "A part of the server is still loading; Retry-After says when to come back", "the model is loading", "server_error", "unavailable"
)
CONFLICT = _error(
    "The feed exists already, or the configuration names it",
    "the configuration names this feed; remove it there",
    "invalid_request_error",
    "conflict",
)
NO_KEY = _error(
    "The admin key is missing or wrong",
    "this needs the admin key; send it as Authorization: Bearer <key>",
    "authentication_error",
    "invalid_api_key",
)
NO_KEY_SET_UP = _error(
    "There is no admin key yet; the message says how to make one",
    "there is no admin key; make one with `frugal-serve admin-key new`",
    "permission_error",
    "forbidden",
)
STORE_DOWN = _error(
    "The store of answers does not answer, or not every replica has heard of the change; Retry-After says when to come back",
    "the store of answers does not answer at the moment; try again shortly",
    "server_error",
    "unavailable",
)
TOO_LARGE = _error(
    "The body is over the limit; send fewer lines at once",
    "the body is over max_body_bytes, 1000000 bytes; send a shorter text or raise the limit",
    "invalid_request_error",
    "request_too_large",
)

LATE = _error(
    "The answer took longer than the request's timeout_s (or the server's request_timeout_s, with the code timeout)",
    "timeout_s: the answer took longer than 2 s; ask for fewer tokens with max_tokens, or allow more time",
    "server_error",
    "deadline_exceeded",
    "timeout_s",
)

NOT_CACHED = _error(
    "The request said only-if-cached, and there is no stored answer that it would take",
    "only-if-cached: there is no stored answer that this request would take; send it without only-if-cached, and one is made",
    "server_error",
    "not_cached",
    "cache",
)

_STREAM = "The whole answer; with stream, events of chat.completion.chunk or text_completion that end in `data: [DONE]`"
_WRONG: Responses = {
    400: BAD,
    404: NO_MODEL,
    429: BUSY,
    503: LOADING,
    504: _either("Too late, or only-if-cached without a stored answer", late=LATE, not_cached=NOT_CACHED),
}
CHAT: Responses = {200: _ok(_STREAM, plain=_CHAT, with_logprobs=_CHAT_LOGPROBS), **_WRONG}
TEXT: Responses = {200: _ok(_STREAM, plain=_TEXT, with_logprobs=_TEXT_LOGPROBS), **_WRONG}
