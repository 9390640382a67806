"""JSON Feed 1.0 and 1.1 (https://www.jsonfeed.org/version/1.1/), which feedparser 6 does not read. Pure.

Tests: tests/fast/test_feeds_parse.py.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from typing import Any

from serve_app.errors import FetchError


@dataclass(frozen=True, slots=True)
class Item:
    """An entry before it is cleaned. `bodies`: text and whether it is plain, the best first."""

    guid: str
    link: str
    title: str
    plain_title: bool
    author: str
    published_at: float | None
    bodies: tuple[tuple[str, bool], ...]
    tags: tuple[str, ...] = ()


def looks_like(body: bytes) -> bool:
    """True where the first character opens a JSON object."""
    return body[:64].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def read(body: bytes) -> tuple[str, list[Item], str, str]:
    """Title, items, the address of a WebSub hub, and the feed's own.

    Raises:
        FetchError: JSON, but no JSON Feed.
    """
    try:
        data = json.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        raise FetchError("this looks like JSON and cannot be read as such; tell the feed's owner") from None
    version, items = str(data.get("version")), data.get("items")
    if "jsonfeed.org/version/1" not in version or not isinstance(items, list):
        raise FetchError("this is JSON, but not a JSON Feed; look for the site's feed address and use that")
    hubs = [hub for hub in data.get("hubs") or () if isinstance(hub, dict)] if isinstance(data.get("hubs"), list) else []
    hub = next((_text(hub, "url") for hub in hubs if _text(hub, "type").lower() == "websub"), "")
    return _text(data, "title"), [_item(item) for item in items if isinstance(item, dict)], hub, _text(data, "feed_url")


def _item(item: dict[str, Any]) -> Item:
    authors = item.get("authors") if isinstance(item.get("authors"), list) else [item.get("author")]
    names = [_text(author, "name") for author in authors or () if isinstance(author, dict)]
    guid = item.get("id")
    return Item(
        guid=str(guid) if isinstance(guid, str | int | float) and not isinstance(guid, bool) else "",
        link=_text(item, "url") or _text(item, "external_url"),
        title=_text(item, "title"),
        plain_title=True,
        author=", ".join(name for name in names if name),
        published_at=_timestamp(_text(item, "date_published") or _text(item, "date_modified")),
        tags=tuple(tag for tag in item["tags"] if isinstance(tag, str)) if isinstance(item.get("tags"), list) else (),
        bodies=((_text(item, "content_html"), False), (_text(item, "content_text"), True), (_text(item, "summary"), True)),
    )


def _text(where: dict[str, Any], name: str) -> str:
    value = where.get(name)
    return value if isinstance(value, str) else ""


def _timestamp(text: str) -> float | None:
    """RFC 3339; without an offset it is taken for UTC."""
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
