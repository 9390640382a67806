"""Token ids to the bytes that they stand for, for clients that look at single tokens.

Text is decoded over several tokens (text.py), because one of them may be half a character; what is asked here is what a token alone is.
Knows a Hugging Face tokenizer, no tensors. Tests: tests/engine/test_logprobs.py, tests/model/test_logprobs.py.
"""

from __future__ import annotations

import functools
import re
from typing import Any

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte that is in no other piece
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space


class Spelling:
    """The bytes of each token of one tokenizer: of a byte-level BPE (GPT-2's and its followers') or SentencePiece exactly those in the
    vocabulary, of any other the UTF-8 of the token decoded alone."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._added = frozenset(tokenizer.added_tokens_decoder)
        self._byte_level = "ByteLevel" in repr(getattr(tokenizer.backend_tokenizer, "decoder", None))

    def is_special(self, token: int) -> bool:
        """True for a control token, which is no part of the text."""
        return token in self._special

    def spell(self, token: int) -> bytes:
        """The token's bytes, which need not be whole characters; nothing for an id that the vocabulary leaves out."""
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if token in self._added:  # stands in the vocabulary as it is written
            return str(piece).encode()
        if self._byte_level:
            return bytes(_bytes_of_chars()[char] for char in piece)
        if byte := BYTE_PIECE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        if WORD_START in piece:
            return str(piece).replace(WORD_START, " ").encode()
        return str(self._tokenizer.decode([token])).encode()


@functools.cache
def _bytes_of_chars() -> dict[str, int]:
    """GPT-2's alphabet: bytes that print as Latin-1 stand for themselves, the others for U+0100 and on, in order (Radford et al. 2019)."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + number): byte for number, byte in enumerate(others)}
