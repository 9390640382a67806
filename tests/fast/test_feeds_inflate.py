"""Compressed bodies: whole, in single bytes, torn, false, and bombs; in every coding that the request asks for."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import brotli
import pytest
import zstandard

from serve_app.errors import FetchError
from serve_app.feeds.decoders import PIECE
from serve_app.feeds.inflate import ACCEPTED, Body

TEXT = b"<rss version='2.0'><channel><title>x</title></channel></rss>" * 50


def raw_deflate(data: bytes) -> bytes:
    raw = zlib.compressobj(wbits=-15)
    return raw.compress(data) + raw.flush()


CODED = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "x-gzip, two members, padding": ("x-gzip", gzip.compress(TEXT[:20]) + gzip.compress(TEXT[20:]) + b"\0\0"),
    "zlib": ("deflate", zlib.compress(TEXT)),
    "raw deflate": ("deflate", raw_deflate(TEXT)),
    "br": ("br", brotli.compress(TEXT)),
    "zstd": ("zstd", zstandard.compress(TEXT)),
    "zstd, two frames": ("zstd", zstandard.compress(TEXT[:99]) + zstandard.compress(TEXT[99:])),
    "nothing": (" Identity ", TEXT),
}
HUGE = 200_000_000


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize(("coding", "data"), CODED.values(), ids=CODED)
def test_a_body_comes_out_as_it_went_in_however_it_arrives(coding: str, data: bytes, size: int) -> None:
    body = Body(coding, 1_000_000)
    for start in range(0, len(data), size):
        body.feed(data[start : start + size])
    assert body.finish() == TEXT


@pytest.mark.parametrize("coding", ACCEPTED.split(", "))
def test_a_torn_body_and_a_false_one_are_refused(coding: str) -> None:
    data = next(data for name, data in CODED.values() if name == coding)
    torn = Body(coding, 1_000_000)
    torn.feed(data[:-3])
    with pytest.raises(FetchError, match="broke off"):
        torn.finish()
    with pytest.raises(FetchError, match=f"not the {coding} data"):
        Body(coding, 1_000_000).feed(b"\x05 no such data at all")


@pytest.mark.parametrize("coding", ACCEPTED.split(", "))
def test_a_bomb_in_one_piece_stops_at_the_limit(coding: str) -> None:
    bomb = BOMBS[coding]()
    assert len(bomb) < HUGE / 100
    tracemalloc.start()
    body = Body(coding, 1_000_000)
    with pytest.raises(FetchError, match="larger than 1 MB; raise max_feed_bytes"):
        body.feed(bomb)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert body.num_bytes <= 1_000_000 + 32 * PIECE
    assert peak < 6_000_000


def gzip_bomb(wbits: int = 31) -> bytes:
    packer = zlib.compressobj(1, wbits=wbits)
    return b"".join(packer.compress(b"<" * 1_000_000) for _ in range(HUGE // 1_000_000)) + packer.flush()


def brotli_bomb() -> bytes:
    packer = brotli.Compressor(quality=1)
    return b"".join([*(packer.process(b"<" * 1_000_000) for _ in range(HUGE // 1_000_000)), packer.finish()])


def zstd_bomb() -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join(packer.compress(b"<" * 1_000_000) for _ in range(HUGE // 1_000_000)) + packer.flush()


BOMBS = {"gzip": gzip_bomb, "deflate": lambda: gzip_bomb(15), "br": brotli_bomb, "zstd": zstd_bomb}


def test_a_zstd_frame_that_wants_a_huge_window_is_refused() -> None:
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compressobj()
    with pytest.raises(FetchError, match="not the zstd data"):
        Body("zstd", 1_000_000).feed(wide.compress(TEXT) + wide.flush())


@pytest.mark.parametrize("coding", ["compress", "gzip, gzip", "aes128gcm"])
def test_a_coding_that_nobody_asked_for_is_refused_by_name(coding: str) -> None:
    with pytest.raises(FetchError, match=coding):
        Body(coding, 1_000_000)
