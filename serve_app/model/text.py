"""Tokens to text, one token at a time: never half a character, and nothing that may yet turn out to be a stop string.

Pure: a decode function in, strings out. `tokenizers.DecodeStream` does the first half but raises on byte sequences that a small model does
produce ("Invalid prefix encountered"), so the window below is our own. Tests: tests/fast/test_text.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

HALF = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are no character yet
MAX_HELD_TOKENS = 16  # no character takes more; after this many the bytes are simply wrong


class TextStream:
    """The text of one growing answer.

    Tokens are decoded in a window, because a token's text depends on its neighbours (spaces, multi-byte characters):

        tokens   0 ... start ... read ... now
                       |_______|              decoded before, for context
                       |_________________|    decoded again; what it has more is new text
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._start = 0
        self._read = 0
        self._held = ""
        self.num_chars = 0  # decoded so far, what is held back included
        self.stopped = False

    def push(self, token: int, may_stop: bool = True) -> str:
        """Add a token; return the text that is safe to send. Sets `stopped` where a stop string came, which is not part of the text."""
        self._tokens.append(token)
        self._held += self._fresh(final=False)
        return self._release(may_stop)

    def close(self, may_stop: bool = True) -> str:
        """No token will follow: the rest of the text, unless it is a stop string after all."""
        if self.stopped:
            return ""
        self._held += self._fresh(final=True)
        sent, rest = self._release(may_stop), self._held
        self._held = ""
        return sent + rest  # a stop string has left no rest

    def _fresh(self, final: bool) -> str:
        known = self._decode(self._tokens[self._start : self._read]) if self._read > self._start else ""
        text = self._decode(self._tokens[self._start :])
        num_new = len(self._tokens) - self._read
        if not final and num_new < MAX_HELD_TOKENS and (len(text) <= len(known) or text.endswith(HALF)):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        fresh = text[len(known) :]
        self.num_chars += len(fresh)
        return fresh

    def _release(self, may_stop: bool) -> str:
        if may_stop and self._stop:
            hits = [at for at in map(self._held.find, self._stop) if at >= 0]
            if hits:
                self.stopped = True
                sent, self._held = self._held[: min(hits)], ""
                return sent
            keep = _overlap(self._held, self._stop)
        else:
            keep = 0
        cut = len(self._held) - keep
        sent, self._held = self._held[:cut], self._held[cut:]
        return sent


def _overlap(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    return max((size for word in stop for size in range(1, min(len(word), len(text) + 1)) if text.endswith(word[:size])), default=0)
