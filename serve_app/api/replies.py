"""Answers in OpenAI's words, whole or chunk by chunk. No I/O; requests are in openai.py.

Beside OpenAI's fields a reply has `frugal`: how it was made and what it took. `compute_s` and `cost_usd` are what this request spent, so a
reused answer (hit, similar, join) shows 0 there and the compute-seconds it did not need in `avoided_s`; engine times of a generation that
was not this request's are null. Where a request has several answers, seconds and dollars are their sums, `cache` is the costliest way in
which one was made (hit, similar, join, miss, bypass), and the engine times are the longest.

Tests: tests/fast/test_api_completions.py, tests/fast/test_api_stream.py, tests/fast/test_api_choices.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.api.openai import StreamOptions
from serve_app.errors import Cancelled, FrugalError
from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import REUSED, Answer, Chunk, Finish, ModelCard, Opening, Outcome

Kind = Literal["chat", "text"]
DONE = b"data: [DONE]\n\n"
DEAREST: tuple[Outcome, ...] = ("hit", "stale", "similar", "join", "miss", "bypass")  # comes last
LEAST_LOGPROB = -9999.0  # OpenAI's, because JSON has no infinity


@dataclass(frozen=True, slots=True)
class Head:
    """What every reply and chunk of one request begins with."""

    kind: Kind
    request_id: str
    model: str
    created: int
    fingerprint: str | None
    logprobs: bool = False

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


def whole(head: Head, answers: Sequence[Answer]) -> dict[str, Any]:
    """A chat.completion or text_completion with a choice for each answer. Raises Cancelled for an answer without a clean end."""
    finishes = [answer.finish for answer in answers]
    return {
        **head.object("chat.completion" if head.kind == "chat" else "text_completion"),
        "choices": [_choice(head, index, answer) for index, answer in enumerate(answers)],
        "usage": usage(finishes),
        "frugal": frugal([answer.opening for answer in answers], finishes),
    }


def _choice(head: Head, index: int, answer: Answer) -> dict[str, Any]:
    told = logprobs(head.kind, answer.logprobs) if head.logprobs else None
    said = {"message": {"role": "assistant", "content": answer.text, "refusal": None}} if head.kind == "chat" else {"text": answer.text}
    return {"index": index, **said, "logprobs": told, "finish_reason": ending(answer.finish)}


class Chunks:
    """Writes one stream: for each choice any number of `piece` and then one `last`, the choices in any order."""

    def __init__(self, head: Head, openings: Sequence[Opening], options: StreamOptions | None) -> None:
        self._base = head.object("chat.completion.chunk" if head.kind == "chat" else "text_completion")
        self._kind = head.kind
        self._openings = openings
        self._options = options or StreamOptions()
        self._num_tokens = [0] * len(openings)
        self._started = [False] * len(openings)
        self._finishes: dict[int, Finish] = {}

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """Some text; nothing where there is none yet, because a chunk without text would flatter a client's time to first token."""
        self._num_tokens[index] += chunk.num_tokens
        if not chunk.text and not chunk.logprobs:
            return b""
        told = logprobs(self._kind, chunk.logprobs) if chunk.logprobs else None
        return event(self._chunk(index, chunk.text, told, None))

    def last(self, index: int, finish: Finish) -> bytes:
        """The chunk with the choice's finish reason, and, after the last choice, the one with the token counts."""
        self._num_tokens[index] = finish.usage.completion_tokens
        out = event(self._chunk(index, "", None, ending(finish)))
        self._finishes[index] = finish
        if self._options.include_usage and len(self._finishes) == len(self._openings):
            finishes = [self._finishes[number] for number in range(len(self._openings))]
            out += event({**self._base, "choices": [], "usage": usage(finishes), "frugal": frugal(self._openings, finishes)})
        return out

    def _chunk(self, index: int, text: str, told: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text}
        if self._kind == "chat":
            # The role travels with the first text and not ahead of it, for the same reason as in `piece`.
            role = {} if self._started[index] else {"role": "assistant"}
            said = {"delta": {**role, **({"content": text} if text else {})}}
        self._started[index] = True
        choice = {"index": index, **said, "logprobs": told, "finish_reason": reason}
        return {**self._base, "choices": [choice], **self._running_usage()}

    def _running_usage(self) -> dict[str, Any]:
        if self._options.continuous_usage_stats:  # the prompt's tokens are known at the end only
            return {"usage": {"prompt_tokens": None, "completion_tokens": sum(self._num_tokens), "total_tokens": None}}
        return {"usage": None} if self._options.include_usage else {}


def logprobs(kind: Kind, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's `logprobs` of a choice. Of a completion, `top_logprobs` has the chosen token beside the most probable ones, and
    `text_offset` counts characters of the answer, without the prompt."""
    if kind == "chat":
        content = [{**_candidate(entry.chosen), "top_logprobs": [_candidate(one) for one in entry.top]} for entry in tokens]
        return {"content": content, "refusal": None}
    return {
        "tokens": [entry.chosen.token for entry in tokens],
        "token_logprobs": [_finite(entry.chosen.logprob) for entry in tokens],
        "top_logprobs": [{one.token: _finite(one.logprob) for one in (*entry.top, entry.chosen)} for entry in tokens],
        "text_offset": [entry.offset for entry in tokens],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {"token": candidate.token, "logprob": _finite(candidate.logprob), "bytes": list(candidate.utf8)}


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def ending(finish: Finish) -> str:
    """OpenAI's finish reason. Raises Cancelled, because a part of an answer must not pass for the whole."""
    if finish.reason == "cancelled":
        raise Cancelled("the generation was given up before its end; send the request again", retry_after_s=1)
    return finish.reason


def usage(finishes: Sequence[Finish]) -> dict[str, Any]:
    """OpenAI's token counts of a request's answers; its one prompt counts once."""
    prompt = finishes[0].usage
    completion_tokens = sum(finish.usage.completion_tokens for finish in finishes)
    return {
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens},
    }


def outcome(openings: Sequence[Opening]) -> Outcome:
    """How the answers of one request were made: the costliest of the ways, so that `hit` means that all were hits."""
    return max((opening.outcome for opening in openings), key=DEAREST.index)


def age_s(openings: Sequence[Opening]) -> float | None:
    """Of the oldest answer, where all were stored."""
    ages = [opening.age_s for opening in openings if opening.age_s is not None]
    return max(ages) if len(ages) == len(openings) else None


def similarity(openings: Sequence[Opening]) -> float | None:
    """Of the least similar question whose answer stands for one of this request."""
    return min((opening.similarity for opening in openings if opening.similarity is not None), default=None)


def frugal(openings: Sequence[Opening], finishes: Sequence[Finish]) -> dict[str, Any]:
    """How the answers were made and what they took; see the top of this file."""
    made = [finish for opening, finish in zip(openings, finishes, strict=True) if opening.outcome not in REUSED]
    reused = [finish for opening, finish in zip(openings, finishes, strict=True) if opening.outcome in REUSED]
    return {
        "cache": outcome(openings),
        "age_s": age_s(openings),
        "compute_s": sum((finish.compute_s for finish in made), 0.0),
        "avoided_s": sum((finish.compute_s for finish in reused), 0.0),
        "cost_usd": sum((finish.cost_usd for finish in made), 0.0),
        "batch_size": max((finish.batch_size for finish in made), default=None),
        "ttft_s": max((finish.ttft_s for finish in made), default=None),
        "queue_s": max((finish.queue_s for finish in made), default=None),
    }


def failure(error: FrugalError) -> bytes:
    """The end of a stream that broke after its head was sent. No [DONE] follows it."""
    return event(error.body())


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event. Plain ASCII, because clients that split lines as Python does break at U+2028 inside a text."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
