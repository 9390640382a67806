"""Decompression in bounded pieces, so that a compressed bomb stops at the limit and not in memory.

aiohttp would decode each network chunk whole: 64 KB can become 64 MB. Here no piece is larger than PIECE and the total is counted as it
grows. Tests: tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from serve_app.errors import FetchError

PIECE = 65_536
ACCEPTED = "gzip, deflate"
GZIP, ZLIB, RAW = 31, 15, -15  # zlib's names for container formats: https://zlib.net/manual.html


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...


class Body:
    """Collects a reply's body, decoded. `encoding` is its Content-Encoding."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        coding = encoding.strip().lower().removeprefix("x-")
        if coding not in ("", "identity", "gzip", "deflate"):
            raise FetchError(f"the server compressed with {encoding[:40]!r} although only {ACCEPTED} was asked for; tell its owner")
        self._coding = "" if coding == "identity" else coding
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._decompressor: _Decompressor | None = None
        self.num_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the network.

        Raises:
            FetchError: over the limit, or not what Content-Encoding says.
        """
        if not self._coding:
            self._keep(data)
            return
        try:
            self._inflate(data)
        except zlib.error:
            raise FetchError(f"the reply is not the {self._coding} data that it claims to be; tell the feed's owner") from None

    def finish(self) -> bytes:
        """The whole body.

        Raises:
            FetchError: the compressed data ends too early.
        """
        if self._decompressor is not None and not self._decompressor.eof:
            raise FetchError("the reply broke off before its end; it will be tried again")
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> None:
        self.num_bytes += len(piece)
        if self.num_bytes > self._max_bytes:
            limit = f"{self._max_bytes / 1e6:g} MB"
            raise FetchError(f"the feed is larger than {limit}; raise max_feed_bytes, or ask its owner for a shorter one")
        self._pieces.append(piece)

    def _inflate(self, data: bytes) -> None:
        while data:
            if self._decompressor is None or self._decompressor.eof:
                if self._decompressor is not None and not data.startswith(b"\x1f\x8b"):
                    return  # padding behind the last gzip member
                self._decompressor = self._open(data)
            self._keep(self._decompressor.decompress(data, PIECE))
            data = self._decompressor.unused_data if self._decompressor.eof else self._decompressor.unconsumed_tail

    def _open(self, data: bytes) -> _Decompressor:
        if self._coding == "gzip":
            return zlib.decompressobj(GZIP)
        # Some servers send raw deflate. A zlib header is 0x?8 and a checksum: RFC 1950, section 2.2.
        has_header = data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)
        return zlib.decompressobj(ZLIB if has_header else RAW)
