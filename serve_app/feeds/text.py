"""From markup to plain text, and what two texts must share to count as the same. Pure.

The markup is untrusted: nothing of it survives here, so nothing has to be sanitised later. Tests: tests/fast/test_feeds_text.py.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from serve_app.feeds.markup import tokens

MAX_MARKUP = 1_000_000  # characters of one field that are looked at

# fmt: off
BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "summary",
    "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
))
HIDDEN = frozenset(("iframe", "math", "noscript", "object", "script", "select", "style", "svg", "template", "textarea", "title"))
# fmt: on
# Chinese and Japanese write no spaces; a character there stands for about a word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
LINE_ENDS = re.compile(r"[\r\n]+")
NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # PostgreSQL refuses NUL, UTF-8 has no surrogates


def visible_text(markup: str) -> str:
    """What a reader of this HTML sees: one line per block, entities resolved, scripts and styles gone."""
    parts: list[str] = []
    hidden, depth, in_pre = "", 0, 0
    for token in tokens(markup[:MAX_MARKUP]):
        if isinstance(token, str):
            if not hidden:
                parts.append(token if in_pre else LINE_ENDS.sub(" ", token))
        elif hidden:
            depth += (token.name == hidden and not token.empty) * (-1 if token.closes else 1)
            hidden = hidden if depth > 0 else ""
        elif token.name in HIDDEN:
            if not token.closes and not token.empty:
                hidden, depth = token.name, 1
        elif token.name in BLOCKS:
            parts.append("\n")
            if token.name == "pre":
                in_pre = max(0, in_pre + (-1 if token.closes else 1))
    return tidy("".join(parts))


def tidy(text: str) -> str:
    """Each line's white space collapsed, empty lines gone, no character that a database refuses."""
    lines = (" ".join(line.split()) for line in NOT_TEXT.sub("", text).splitlines())
    return "\n".join(line for line in lines if line)


def one_line(text: str) -> str:
    """The same, as one line."""
    return " ".join(NOT_TEXT.sub("", text).split())


def text_hash(title: str, text: str) -> str:
    """SHA-256 of title and text in NFC with white space collapsed: the same for two texts that read the same."""
    normal = "\n".join(" ".join(unicodedata.normalize("NFC", part).split()) for part in (title, text))
    return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()


def num_words(text: str) -> int:
    """How many words a text has."""
    return sum(1 for _ in WORD.finditer(text))
