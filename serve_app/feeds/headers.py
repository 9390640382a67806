"""What a reply's headers say about the next request: validators, max-age, Retry-After. Pure.

Tests: tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping

MAX_VALIDATOR = 1_000
MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,10})", re.IGNORECASE)


def validator(value: str | None) -> str | None:
    """An ETag or Last-Modified as it came, to be sent back unchanged; None for one that cannot be."""
    return value if value and len(value) <= MAX_VALIDATOR and value.isascii() and value.isprintable() else None


def max_age_s(headers: Mapping[str, str]) -> float | None:
    """How long the feed says that it stays fresh (RFC 9111, section 5.2.2.1)."""
    control = headers.get("Cache-Control", "")
    if "no-cache" in control.lower() or "no-store" in control.lower():
        return None
    found = MAX_AGE.search(control)
    return float(found.group(1)) if found else None


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the server wants to be asked again (RFC 9110, section 10.2.3): a number, or a date relative to its own clock."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit() and len(value) <= 10:
        return float(value)
    until, at = _date(value), _date(headers.get("Date", ""))
    if until is None:
        return None
    return max(0.0, until - (now if at is None else at))


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
