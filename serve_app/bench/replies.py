"""Reads answers of the OpenAI wire format, whole or as server-sent events, and checks that they are what was asked for. No I/O.

Tests: tests/fast/test_bench_sender.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from serve_app.bench.samples import Reply, RequestFailed

DONE = b"[DONE]"
ENDINGS = ("stop", "length")


@dataclass(frozen=True, slots=True)
class Question:
    """A request, encoded once. `num_tokens`: the length that it forces, to be checked."""

    body: bytes
    stream: bool = False
    num_tokens: int | None = None


def whole(body: bytes, question: Question, cache: str | None) -> Reply:
    """The reply of a body.

    Raises:
        RequestFailed: `wrong_reply` or `unfinished`.
    """
    try:
        data = json.loads(body)
        ending, usage = data["choices"][0]["finish_reason"], data["usage"]
        return _checked(question, ending, usage, cache, ())
    except (ValueError, LookupError, TypeError):
        raise RequestFailed("wrong_reply") from None


class Reading:
    """One stream: bytes go in as they come, with their time; `reply` once the connection says that it is over."""

    def __init__(self, question: Question, cache: str | None) -> None:
        self._question = question
        self._cache = cache
        self._rest = b""
        self._text_at: list[float] = []
        self._ending: str | None = None
        self._usage: dict[str, Any] | None = None
        self._done = False

    def feed(self, data: bytes, now: float) -> None:
        """More of the stream.

        Raises:
            RequestFailed: `error_event` or `wrong_reply`.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now)

    def reply(self) -> Reply:
        """The reply of the whole stream.

        Raises:
            RequestFailed: `unfinished` without finish reason, token counts or [DONE]; `wrong_reply`.
        """
        if not self._done or self._usage is None:
            raise RequestFailed("unfinished")
        return _checked(self._question, self._ending, self._usage, self._cache, tuple(self._text_at))

    def _event(self, data: bytes, now: float) -> None:
        if data == DONE:
            self._done = True
            return
        try:
            event = json.loads(data)
            if "error" in event:
                raise RequestFailed("error_event")
            self._usage = event.get("usage") or self._usage
            for choice in event["choices"]:
                self._ending = choice["finish_reason"] or self._ending
                if choice["delta"].get("content"):
                    self._text_at.append(now)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RequestFailed("wrong_reply") from None


def _checked(question: Question, ending: object, usage: dict[str, Any], cache: str | None, text_at: tuple[float, ...]) -> Reply:
    reply = Reply(int(usage["prompt_tokens"]), int(usage["completion_tokens"]), cache, text_at)
    if ending not in ENDINGS:
        raise RequestFailed("unfinished")
    if question.num_tokens not in (None, reply.completion_tokens):
        raise RequestFailed("wrong_reply")
    return reply
