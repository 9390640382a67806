"""A reply's body, decoded as it arrives and counted as it grows, so that a compressed bomb stops at the limit and not in memory.

aiohttp would decode each network chunk whole. Tests: tests/fast/test_feeds_inflate.py, tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.errors import FetchError
from serve_app.feeds.decoders import PIECE, Broken, Decoder, decoder

__all__ = ["ACCEPTED", "PIECE", "Body"]

ACCEPTED = "gzip, deflate, br, zstd"


class Body:
    """Collects a reply's body, decoded. `encoding` is its Content-Encoding; one coding is undone, a stack of them is refused.

    Raises:
        FetchError: a coding that was not asked for.
    """

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._coding = encoding.strip().lower().removeprefix("x-")
        self._decoder: Decoder | None = None
        if self._coding not in ("", "identity"):
            self._decoder = decoder(self._coding)
            if self._decoder is None:
                raise FetchError(f"the server compressed with {encoding[:40]!r} although only {ACCEPTED} was asked for; tell its owner")
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self.num_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the network.

        Raises:
            FetchError: over the limit, or not what Content-Encoding says.
        """
        for _num_bytes in self.steps(data):
            pass

    def steps(self, data: bytes) -> Iterator[int]:
        """The same in steps, each with the size of the body so far: a caller may wait in between, before the next piece is decoded."""
        try:
            for piece in (data,) if self._decoder is None else self._decoder.decode(data):
                self._keep(piece)
                yield self.num_bytes
        except Broken:
            raise FetchError(f"the reply is not the {self._coding} data that it claims to be; tell the feed's owner") from None

    def finish(self) -> bytes:
        """The whole body.

        Raises:
            FetchError: the compressed data ends too early.
        """
        if self._decoder is not None and not self._decoder.ended:
            raise FetchError("the reply broke off before its end; it will be tried again")
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> None:
        self.num_bytes += len(piece)
        if self.num_bytes > self._max_bytes:
            limit = f"{self._max_bytes / 1e6:g} MB"
            raise FetchError(f"the feed is larger than {limit}; raise max_feed_bytes, or ask its owner for a shorter one")
        if piece:
            self._pieces.append(piece)
