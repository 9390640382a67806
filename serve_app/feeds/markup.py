"""HTML as a sequence of tags and text, in time linear in its length whatever it holds. Pure.

The standard library's html.parser takes 133 s for 400 KB of `<!--` (Python 3.11.7, measured; CVE-2025-6069) and raises AssertionError on
`<![x[`, so a hostile feed could hold a replica. What is written here follows browsers where feeds need it and drops everything else.
Tests: tests/fast/test_feeds_text.py.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_TAG = 10_000  # characters in which a tag's quotes are honoured; a longer one ends at its first `>`
NAME = re.compile(r"[a-zA-Z][^\s/>\x00]{0,100}")
ATTRIBUTES = re.compile(r"""(?>[^>"']++|"[^"]*+"|'[^']*+')*+>""")
ATTRIBUTE = re.compile(r"""([^\s=>"'/]{1,100})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""")
RAW = frozenset(("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"))  # their content is text up to the end tag


@dataclass(frozen=True, slots=True)
class Tag:
    """`<name source>`, `</name>` where `closes`, `<name />` where `empty`."""

    name: str
    closes: bool
    source: str

    @property
    def empty(self) -> bool:
        """True for `<name />`."""
        return self.source.endswith("/")

    def attributes(self, limit: int = MAX_TAG) -> dict[str, str]:
        """Names in lower case, values with their entities resolved; those in the first `limit` characters."""
        return {name.lower(): unescape(a or b or c) for name, a, b, c in ATTRIBUTE.findall(self.source[:limit])}


def tokens(markup: str) -> Iterator[Tag | str]:
    """Tags, and the text between them with its entities resolved. Comments and declarations are left out."""
    at = text_from = 0
    while (at := markup.find("<", at)) >= 0:
        end, tag = _construct(markup, at)
        if end == at:  # a `<` that begins nothing is text
            at += 1
            continue
        if at > text_from:
            yield unescape(markup[text_from:at])
        if tag is not None:
            yield tag
            if tag.name in RAW and not tag.closes and not tag.empty:
                end = _raw_end(markup, end, tag.name)
        at = text_from = end
    if text_from < len(markup):
        yield unescape(markup[text_from:])


def unescape(text: str) -> str:
    """Entities resolved; a number with thousands of digits stays as it is."""
    try:
        return html.unescape(text)
    except ValueError:
        return text


def _construct(markup: str, at: int) -> tuple[int, Tag | None]:
    """What begins at the `<` at `at`: where it ends (`at` itself if it is text), and the tag if it is one."""
    if markup.startswith("<!--", at):
        return _behind(markup, "-->", at + 2), None  # `<!-->` is a whole comment
    if markup.startswith("<![CDATA[", at):
        return _behind(markup, "]]>", at + 9), None
    if markup.startswith(("<!", "<?"), at):
        return _behind(markup, ">", at + 2), None
    closes = markup.startswith("/", at + 1)
    name = NAME.match(markup, at + 1 + closes)
    if name is None:
        return at, None
    attributes = ATTRIBUTES.match(markup, name.end(), name.end() + MAX_TAG)
    end = attributes.end() if attributes else _behind(markup, ">", name.end())
    return end, Tag(name.group().lower(), closes, markup[name.end() : end - 1])


def _behind(markup: str, mark: str, at: int) -> int:
    found = markup.find(mark, at)
    return len(markup) if found < 0 else found + len(mark)


def _raw_end(markup: str, at: int, name: str) -> int:
    found = re.compile(rf"</{name}\b", re.IGNORECASE).search(markup, at)
    return found.start() if found else len(markup)
