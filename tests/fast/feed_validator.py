"""What https://validator.w3.org/feed/ and the JSON Feed standard ask of a document, as far as ours could break it: a list of complaints.

Sources: the validator's own list (https://validator.w3.org/feed/docs/), RFC 4287, https://www.rssboard.org/rss-profile,
https://www.jsonfeed.org/version/1.1/. Tests of it and with it: tests/fast/test_syndicate_valid.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from xml.etree import ElementTree as ET

ATOM, DC, CONTENT = "{http://www.w3.org/2005/Atom}", "{http://purl.org/dc/elements/1.1/}", "{http://purl.org/rss/1.0/modules/content/}"
DAY, MONTH = "(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", "(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
RFC_822 = re.compile(rf"{DAY}, \d\d {MONTH} \d{{4}} \d\d:\d\d:\d\d (GMT|[+-]\d{{4}})")
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
URI = re.compile(r"https?://[A-Za-z0-9._~:\[\]-]+(/([A-Za-z0-9._~!$&'()*+,;=:@/?#-]|%[0-9A-Fa-f]{2})*|[?#].*)?")
URN = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
RSS_CHANNEL = {"title", "link", "description", "lastBuildDate", "generator", "item", f"{ATOM}link"}
RSS_ITEM = {"title", "link", "description", "guid", "pubDate", "category", "source", f"{DC}creator", f"{CONTENT}encoded"}
MANY = {"item", "category", f"{ATOM}entry", f"{ATOM}link", f"{ATOM}category"}


def rss_problems(body: bytes, own: str) -> list[str]:
    """What is wrong with an RSS 2.0 document that is found at `own`."""
    root = _xml(body)
    if root.tag != "rss" or root.get("version") != "2.0" or [child.tag for child in root] != ["channel"]:
        return ["it is no rss 2.0 with one channel"]
    channel, items = root[0], root[0].findall("item")
    selfs = [(link.get("rel"), link.get("type"), link.get("href")) for link in channel.findall(f"{ATOM}link")]
    found = [] if selfs == [("self", "application/rss+xml", own)] else [f"self links are {selfs}"]
    found += _required(channel, ("title", "link", "description")) + _unknown(channel, RSS_CHANNEL) + _lone(channel)
    for item in items:
        found += _required(item, ("title", "guid", "pubDate")) + _unknown(item, RSS_ITEM) + _lone(item)
        found += [f"guid {guid.text} is a permalink" for guid in item.iter("guid") if guid.get("isPermaLink") != "false"]
        found += [f"source without a name or at {source.get('url')}" for source in item.iter("source") if not _is_source(source)]
    found += _not("RFC 822 date", RFC_822, (e.text for name in ("pubDate", "lastBuildDate") for e in channel.iter(name)))
    found += _not("URI", URI, (e.text for e in channel.iter("link")))
    found += _not("URN", URN, (e.text for e in channel.iter("guid")))
    return found + _twice(e.text for e in channel.iter("guid")) + _markup(channel, ("description", f"{CONTENT}encoded")) + _controls(root)


def atom_problems(body: bytes, own: str) -> list[str]:
    """What is wrong with an Atom 1.0 document that is found at `own`."""
    root = _xml(body)
    if root.tag != f"{ATOM}feed":
        return ["it is no Atom feed"]
    entries = root.findall(f"{ATOM}entry")
    found = [] if [link.get("href") for link in root.findall(f"{ATOM}link[@rel='self']")] == [own] else ["no self link, or another"]
    for one in (root, *entries, *root.iter(f"{ATOM}source")):
        found += _required(one, [f"{ATOM}{name}" for name in ("id", "title", "updated")]) + _lone(one)
        alternates = [link for link in one.findall(f"{ATOM}link") if link.get("rel", "alternate") == "alternate"]
        found += ["two alternate links"] if len(alternates) > 1 else []
    for entry in entries:
        content = entry.find(f"{ATOM}content")
        found += [] if content is not None and content.get("type") == "html" else ["an entry without html content"]
        found += [] if entry.find(f"{ATOM}author") is not None or root.find(f"{ATOM}author") is not None else ["no author"]
    found += [f"{e.tag} is not in the namespace" for e in root.iter() if not str(e.tag).startswith(ATOM)]
    found += _required_of_all(root.iter(f"{ATOM}author"), f"{ATOM}name")
    found += _not("category", re.compile(r"(?s).+"), (e.get("term") for e in root.iter(f"{ATOM}category")))
    found += _not("RFC 3339 date", RFC_3339, (e.text for name in ("updated", "published") for e in root.iter(f"{ATOM}{name}")))
    found += _not("URI", URI, (e.get("href") for e in root.iter(f"{ATOM}link")))
    found += _not("URN", URN, (e.text for e in root.iter(f"{ATOM}id")))
    found += _twice(e.findtext(f"{ATOM}id") for e in (root, *entries))
    return found + _markup(root, (f"{ATOM}content",)) + _controls(root)


def json_problems(body: bytes, own: str) -> list[str]:
    """What is wrong with a JSON Feed 1.1 that is found at `own`."""
    data: dict[str, Any] = json.loads(body.decode("utf-8", "strict"))
    found = [] if data.get("version") == "https://jsonfeed.org/version/1.1" else ["the version is another"]
    found += [] if data.get("title") and isinstance(data.get("items"), list) else ["no title, or no items"]
    found += [] if data.get("feed_url") == own else ["feed_url is another"]
    items: list[dict[str, Any]] = data["items"]
    for item in items:
        found += [] if isinstance(item.get("content_text"), str) else ["an item without content"]
        names: list[Any] = [author.get("name") for author in item.get("authors", ())] + list(item.get("tags", ()))
        found += [] if all(isinstance(name, str) and name for name in names) else ["an author or tag without a name"]
        found += [f"{name} is no extension" for name, value in item.items() if name.startswith("_") != isinstance(value, dict)]
    found += _not("RFC 3339 date", RFC_3339, (item.get(name) for item in items for name in ("date_published", "date_modified")))
    found += _not("URI", URI, (data.get("home_page_url"), data.get("feed_url"), *(item["url"] for item in items if "url" in item)))
    return found + _not("URN", URN, (item.get("id") for item in items)) + _twice(item.get("id") for item in items)


PROBLEMS: dict[str, Callable[[bytes, str], list[str]]] = {"rss": rss_problems, "atom": atom_problems, "json": json_problems}


def _xml(body: bytes) -> ET.Element:
    if not body.startswith(b'<?xml version="1.0" encoding="utf-8"?>'):
        raise ValueError("the document does not say its encoding")
    body.decode("utf-8", "strict")
    return ET.fromstring(body)


def _required(one: ET.Element, names: Iterable[str]) -> list[str]:
    return [f"{one.tag} lacks {name}" for name in names if not (one.findtext(name) or "").strip()]


def _required_of_all(all_of_them: Iterable[ET.Element], name: str) -> list[str]:
    return [problem for one in all_of_them for problem in _required(one, [name])]


def _unknown(one: ET.Element, known: set[str]) -> list[str]:
    return [f"{child.tag} has no place in {one.tag}" for child in one if child.tag not in known]


def _lone(one: ET.Element) -> list[str]:
    tags = [str(child.tag) for child in one if child.tag not in MANY]
    return [f"{one.tag} has {tag} twice" for tag in sorted(set(tags)) if tags.count(tag) > 1]


def _is_source(source: ET.Element) -> bool:
    return bool(source.text) and URI.fullmatch(source.get("url") or "") is not None


def _not(what: str, pattern: re.Pattern[str], values: Iterable[str | None]) -> list[str]:
    return [f"{value!r} is no {what}" for value in values if not pattern.fullmatch(value or "")]


def _twice(ids: Iterable[str | None]) -> list[str]:
    every = list(ids)
    return [f"{id} is there twice" for id in sorted({str(id) for id in every if every.count(id) > 1})]


def _markup(root: ET.Element, names: Iterable[str]) -> list[str]:
    """What is HTML in it holds nothing but paragraphs: no script, no address that would be relative."""
    texts = (e.text or "" for name in names for e in root.iter(name))
    return [f"markup in {text[:80]!r}" for text in texts if "<" in re.sub("</?p>", "", text)]


def _controls(root: ET.Element) -> list[str]:
    return [f"a control character in {text[:80]!r}" for text in _texts(root) if CONTROL.search(text)]


def _texts(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        yield element.text or ""
        yield from element.attrib.values()
