"""What a fetch met on its way, hop by hop, for whoever wants to show it: feeds/probe.py. The fetcher writes, and reads nothing here.

Tests: tests/fast/test_feeds_probe.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.feed_url import masked

# Those that say something about this request or the next one; cookies and the like are nobody's business.
SHOWN_HEADERS = (
    "Content-Type",
    "Content-Encoding",
    "Content-Length",
    "ETag",
    "Last-Modified",
    "Cache-Control",
    "Expires",
    "Age",
    "Date",
    "Retry-After",
    "Location",
    "Link",
)
MAX_VALUE = 300


@dataclass(slots=True)
class Hop:
    """One request. `addresses`: what the name resolved to, and whether the guard lets each be connected to; empty for an address that is
    written as such. `num_received` bytes came in, which became `num_bytes`. `url` is masked."""

    url: str
    addresses: list[tuple[str, bool]] = field(default_factory=list)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    num_received: int = 0
    num_bytes: int = 0

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of the reply is here."""
        self.status = status
        shown = {name: headers[name] for name in SHOWN_HEADERS if name in headers}
        self.headers = {name: (masked(value) if name == "Location" else value)[:MAX_VALUE] for name, value in shown.items()}


Hops = list[Hop]
