"""Log-probabilities of generated tokens: plain data that travels with the text, and the JSON in which they are stored.

They are of the model's own distribution: before bias, penalties, temperature and filters, as vLLM's `raw_logprobs`. Knows no tokenizer and
no HTTP. Tests: tests/engine/test_logprobs.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that was, or might have been, the next one: its bytes and the natural logarithm of its probability."""

    utf8: bytes
    logprob: float

    @property
    def token(self) -> str:
        """The bytes as text; those that are a part of a character only are written `\\xf0`, as OpenAI does."""
        return self.utf8.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token, the `top` most probable ones in its place (most probable first), and where in the answer's text it begins.

    `offset` counts characters. The tokens that make up one character together all have that character's offset.
    """

    chosen: Candidate
    top: tuple[Candidate, ...] = ()
    offset: int = 0


def pack(logprobs: Iterable[TokenLogprob]) -> list[Any]:
    """As lists that JSON can hold: [[text, logprob, offset, [[text, logprob], ...]], ...] with one character for each byte of a token."""
    return [[*_packed(entry.chosen), entry.offset, [_packed(candidate) for candidate in entry.top]] for entry in logprobs]


def unpack(packed: Sequence[Any]) -> tuple[TokenLogprob, ...]:
    """What `pack` was given."""
    return tuple(TokenLogprob(_unpacked(text, logprob), tuple(_unpacked(*one) for one in top), at) for text, logprob, at, top in packed)


def _packed(candidate: Candidate) -> list[Any]:
    return [candidate.utf8.decode("latin-1"), candidate.logprob]


def _unpacked(text: str, logprob: float) -> Candidate:
    return Candidate(text.encode("latin-1"), logprob)
