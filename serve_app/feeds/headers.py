"""What a reply's headers say about the next request: validators, freshness, Retry-After, hub. Pure.

Tests: tests/fast/test_feeds_fetch.py.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable, Mapping

MAX_VALIDATOR = 1_000
MAX_LINKS = 8_000
LINK = re.compile(r"<([^<>]*)>([^<]*)")
RELATION = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)
MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,10})", re.IGNORECASE)


def validator(value: str | None) -> str | None:
    """An ETag or Last-Modified as it came, to be sent back unchanged; None for one that cannot be."""
    return value if value and len(value) <= MAX_VALIDATOR and value.isascii() and value.isprintable() else None


def max_age_s(headers: Mapping[str, str], now: float) -> float | None:
    """How long the feed says that it stays fresh (RFC 9111, sections 5.2.2.1 and 5.3): max-age, else Expires by the server's clock."""
    control = headers.get("Cache-Control", "")
    if "no-cache" in control.lower() or "no-store" in control.lower():
        return None
    found = MAX_AGE.search(control)
    if found:
        return float(found.group(1))
    until = _date(headers.get("Expires", ""))
    return None if until is None else max(0.0, until - _own_time(headers, now))


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the server wants to be asked again (RFC 9110, section 10.2.3): a number, or a date relative to its own clock."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit() and len(value) <= 10:
        return float(value)
    until = _date(value)
    return None if until is None else max(0.0, until - _own_time(headers, now))


def hub_and_topic(links: Iterable[str]) -> tuple[str | None, str | None]:
    """What `Link` headers advertise for WebSub (https://www.w3.org/TR/websub/#discovery): the first hub, and the feed's own address."""
    found: dict[str, str] = {}
    for line in links:
        for target, parameters in LINK.findall(line[:MAX_LINKS]):
            relations = RELATION.search(parameters)
            for relation in (relations.group(1) or relations.group(2)).lower().split() if relations else ():
                found.setdefault(relation, target.strip())
    return found.get("hub"), found.get("self")


def _own_time(headers: Mapping[str, str], now: float) -> float:
    at = _date(headers.get("Date", ""))
    return now if at is None else at


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
