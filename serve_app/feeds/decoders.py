"""One decoder per content coding, each handing out its output in pieces of bounded size, so that its caller can stop at a limit.

None of the libraries is asked for "everything": 64 KB of gzip can become 64 MB, 15 KB of zstd 500 MB. Broken data raises `Broken`.
Tests: tests/fast/test_feeds_inflate.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

import brotli
import zstandard

PIECE = 65_536
GZIP, ZLIB, RAW = 31, 15, -15  # zlib's names for container formats: https://zlib.net/manual.html
ZSTD_WINDOW = 8 * 1024 * 1024  # the most that `Content-Encoding: zstd` may ask of a decoder: RFC 9659
ZSTD_SLICE = 64  # bytes; a block is at least 4 and at most 128 KB of output (RFC 8878, section 3.1.1.2), so 2 MB at a time


class Broken(ValueError):
    """The data is not in the format that it claims."""


class Decoder(Protocol):
    """Takes data as it comes. `ended`: the data so far is whole."""

    @property
    def ended(self) -> bool: ...

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What can be decoded now, piece by piece. Raises Broken."""
        ...


class Inflate:
    """gzip with any number of members and padding behind them, or deflate in either of the two forms that servers send."""

    def __init__(self, coding: str) -> None:
        self._is_gzip = coding == "gzip"
        self._inner: zlib._Decompress | None = None

    @property
    def ended(self) -> bool:
        return self._inner is None or self._inner.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._inner is None or self._inner.eof:
                    if self._inner is not None and data[0] != 0x1F:
                        return  # padding behind the last gzip member
                    self._inner = zlib.decompressobj(GZIP if self._is_gzip else _deflate_form(data))
                yield self._inner.decompress(data, PIECE)
                data = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
        except zlib.error as error:
            raise Broken(str(error)) from None


class Brotli:
    """RFC 7932."""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self._begun = False

    @property
    def ended(self) -> bool:
        return not self._begun or bool(self._inner.is_finished())

    def decode(self, data: bytes) -> Iterator[bytes]:
        self._begun = True
        try:
            yield self._inner.process(data, output_buffer_limit=PIECE)
            while not self._inner.can_accept_more_data():
                yield self._inner.process(b"", output_buffer_limit=PIECE)
        except brotli.error as error:
            raise Broken(str(error)) from None


class Zstd:
    """RFC 8878, any number of frames."""

    def __init__(self) -> None:
        self._inner: zstandard.ZstdDecompressionObj | None = None

    @property
    def ended(self) -> bool:
        return self._inner is None or self._inner.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(data), ZSTD_SLICE):
                rest = data[start : start + ZSTD_SLICE]
                while rest:
                    if self._inner is None or self._inner.eof:
                        self._inner = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
                    yield self._inner.decompress(rest)
                    rest = self._inner.unused_data
        except zstandard.ZstdError as error:
            raise Broken(str(error)) from None


def decoder(coding: str) -> Decoder | None:
    """For one name of Content-Encoding; None for one that is not known."""
    if coding in ("gzip", "deflate"):
        return Inflate(coding)
    if coding == "br":
        return Brotli()
    return Zstd() if coding == "zstd" else None


def _deflate_form(data: bytes) -> int:
    # Some servers send raw deflate. A zlib header is 0x?8 and a checksum: RFC 1950, section 2.2.
    has_header = data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)
    return ZLIB if has_header else RAW
