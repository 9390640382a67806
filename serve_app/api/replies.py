"""Answers in OpenAI's words, whole or chunk by chunk. No I/O; requests are in openai.py.

Beside OpenAI's fields a reply has `frugal`: how it was made and what it took. `compute_s` and `cost_usd` are what this request spent, so a
reused answer (hit, join) shows 0 there and the compute-seconds it did not need in `avoided_s`; engine times of a generation that was not
this request's are null. Tests: tests/fast/test_api_completions.py, tests/fast/test_api_stream.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.api.openai import StreamOptions
from serve_app.errors import Cancelled, FrugalError
from serve_app.messages import Answer, Finish, ModelCard, Opening

Kind = Literal["chat", "text"]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What every reply and chunk of one request begins with."""

    kind: Kind
    request_id: str
    model: str
    created: int
    fingerprint: str | None

    def object(self, name: str) -> dict[str, Any]:
        """The fields before `choices`."""
        prefix = "chatcmpl" if self.kind == "chat" else "cmpl"
        return {
            "id": f"{prefix}-{self.request_id}",
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def short_fingerprint(cards: tuple[ModelCard, ...], model: str) -> str | None:
    """OpenAI's `system_fingerprint`: changes whenever weights, quantization or chat template do."""
    return next((card.fingerprint[:16] for card in cards if card.id == model), None)


def whole(head: Head, answer: Answer) -> dict[str, Any]:
    """A chat.completion or text_completion. Raises Cancelled for an answer without a clean end."""
    ended = ending(answer.finish)
    if head.kind == "chat":
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended}
    else:
        choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": ended}
    return {
        **head.object("chat.completion" if head.kind == "chat" else "text_completion"),
        "choices": [choice],
        "usage": usage(answer.finish),
        "frugal": frugal(answer.opening, answer.finish),
    }


class Chunks:
    """Writes one stream: any number of `piece`, then one `last`, then `usage` where it was asked for."""

    def __init__(self, head: Head, opening: Opening, options: StreamOptions | None) -> None:
        self._base = head.object("chat.completion.chunk" if head.kind == "chat" else "text_completion")
        self._kind = head.kind
        self._opening = opening
        self._options = options or StreamOptions()
        self._num_tokens = 0
        self._started = False

    def piece(self, text: str, num_tokens: int) -> bytes:
        """Some text; nothing where there is none yet, because a chunk without text would flatter a client's time to first token."""
        self._num_tokens += num_tokens
        return event(self._chunk(text, None)) if text else b""

    def last(self, finish: Finish) -> bytes:
        """The chunk with the finish reason, and the one with the token counts."""
        self._num_tokens = finish.usage.completion_tokens
        out = event(self._chunk("", ending(finish)))
        if self._options.include_usage:
            out += event({**self._base, "choices": [], "usage": usage(finish), "frugal": frugal(self._opening, finish)})
        return out

    def _chunk(self, text: str, reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        if self._kind == "chat":
            # The role travels with the first text and not ahead of it, for the same reason as in `piece`.
            role = {} if self._started else {"role": "assistant"}
            choice = {"index": 0, "delta": {**role, **({"content": text} if text else {})}, "logprobs": None, "finish_reason": reason}
        self._started = True
        return {**self._base, "choices": [choice], **self._running_usage()}

    def _running_usage(self) -> dict[str, Any]:
        if self._options.continuous_usage_stats:  # the prompt's tokens are known at the end only
            return {"usage": {"prompt_tokens": None, "completion_tokens": self._num_tokens, "total_tokens": None}}
        return {"usage": None} if self._options.include_usage else {}


def ending(finish: Finish) -> str:
    """OpenAI's finish reason. Raises Cancelled, because a part of an answer must not pass for the whole."""
    if finish.reason == "cancelled":
        raise Cancelled("the generation was given up before its end; send the request again", retry_after_s=1)
    return finish.reason


def usage(finish: Finish) -> dict[str, Any]:
    """OpenAI's token counts."""
    counts = finish.usage
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }


def frugal(opening: Opening, finish: Finish) -> dict[str, Any]:
    """How the answer was made and what it took; see the top of this file."""
    reused = opening.outcome in ("hit", "join")
    return {
        "cache": opening.outcome,
        "age_s": opening.age_s,
        "compute_s": 0.0 if reused else finish.compute_s,
        "avoided_s": finish.compute_s if reused else 0.0,
        "cost_usd": 0.0 if reused else finish.cost_usd,
        "batch_size": None if reused else finish.batch_size,
        "ttft_s": None if reused else finish.ttft_s,
        "queue_s": None if reused else finish.queue_s,
    }


def failure(error: FrugalError) -> bytes:
    """The end of a stream that broke after its head was sent. No [DONE] follows it."""
    return event(error.body())


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event. Plain ASCII, because clients that split lines as Python does break at U+2028 inside a text."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
