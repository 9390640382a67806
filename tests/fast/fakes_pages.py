"""Web pages with an article in the middle of everything that surrounds one."""

from __future__ import annotations

from collections.abc import Sequence

SENTENCES = (
    "The new scheduler joins requests at every step, so that a short answer never waits for a long one.",
    "It was measured on two cores with the small model, and the slowest request became four times as fast.",
    "The old one stays in the program as a baseline, because a figure without a comparison says nothing.",
    "Both are described in the documentation, together with the command that makes the figures again.",
)


def web_page(lines: Sequence[str] = SENTENCES, head: str = "") -> bytes:
    """A page in UTF-8 whose article has these paragraphs."""
    article = "".join(f"<p>{line}</p>" for line in lines)
    return (
        f"<!DOCTYPE html><html><head>{head}<title>News</title><script>alert(1)</script></head><body><nav><a href=/>Home</a></nav>"
        f"<article><h1>News</h1>{article}</article><section id=comments><p>First comment!</p></section>"
        "<footer>Imprint</footer></body></html>"
    ).encode()
