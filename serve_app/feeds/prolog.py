"""What stands before a feed's first element, removed: white space, comments and the document type with its entity declarations.

feedparser keeps entities that it holds for harmless, and one of 50 KB used 2,000 times makes a title of 100,000,000 characters out of a
58 KB document (measured with 6.0.14). No feed needs one. The declarations are looked for in ASCII, so a document must be in an encoding
that writes `<!` as ASCII does; the few others are refused. Tests: tests/fast/test_feeds_parse.py.
"""

from __future__ import annotations

import codecs
import re

from serve_app.errors import FetchError

SPACE = b" \t\r\n\x0b\x0c\x00"
XML_DECLARATION = re.compile(rb"<\?xml\s[^>]{0,300}?\?>")
DECLARED = re.compile(rb"encoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)
# Python's names of the encodings in which ASCII bytes always stand for themselves where `<` begins something.
PLAIN = re.compile(
    r"utf-8(-sig)?|ascii|latin-?1|iso8859[-_]\d+|cp(125\d|437|850|866|874|932|949|950)|koi8-[rtu]|mac-\w+|tis-620|gb2312|gbk|gb18030"
    r"|big5(hkscs)?|shift_jis(x0213|_2004)?|euc_(jp|kr|jis_2004|jisx0213)|johab|ptcp154|kz1048"
)
MARKUP = re.compile("<[A-Za-z?!]")  # else the mark was a stray one
STRAY_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8)
MARKS = tuple(
    (re.compile(mark, re.DOTALL), encoding)
    for mark, encoding in (
        (re.escape(codecs.BOM_UTF32_LE), "utf-32"),
        (re.escape(codecs.BOM_UTF32_BE), "utf-32"),
        (re.escape(codecs.BOM_UTF16_LE), "utf-16"),
        (re.escape(codecs.BOM_UTF16_BE), "utf-16"),
        (rb"<\x00\x00\x00", "utf-32-le"),
        (rb"\x00\x00\x00<", "utf-32-be"),
        (rb"<\x00[^\x00]\x00", "utf-16-le"),  # two characters, because a single NUL may stand before anything
        (rb"\x00<\x00[^\x00]", "utf-16-be"),
    )
)


def declared_charset(content_type: str | None) -> str | None:
    """The charset of a Content-Type, if Python knows it."""
    found = CHARSET.search(content_type or "")
    return _known(found.group(1)) if found else None


def clean(body: bytes, charset: str | None) -> tuple[bytes, str | None]:
    """The document from its first element on, behind its XML declaration, and the charset to read it with where that is certain.

    Raises:
        FetchError: the encoding is one in which the declarations cannot be found.
    """
    for mark, encoding in MARKS:
        if mark.match(body) and MARKUP.search(text := body.decode(encoding, "replace")):
            plain = text.lstrip("\ufeff").encode()
            return _without_prolog(XML_DECLARATION.sub(b"", plain, count=1)), "utf-8"
    for stray in STRAY_MARKS:
        body = body.removeprefix(stray)
    body = body.lstrip(SPACE)
    declaration = XML_DECLARATION.search(body[:1_000])
    declared = DECLARED.search(declaration.group()) if declaration else None
    said = _known(declared.group(1).decode()) if declared else None
    for encoding in filter(None, (charset, said)):
        if not PLAIN.fullmatch(encoding) and not encoding.startswith("utf-16"):
            raise FetchError(f"the feed is in the encoding {encoding}, which is not read; ask its owner for UTF-8")
    if (charset or said or "").startswith("utf-16"):  # wrongly, as nothing of it looks so; that happens
        declaration, charset = None, "utf-8"
        body = XML_DECLARATION.sub(b"", body, count=1)
    head = declaration.group() + b"\n" if declaration else b""
    rest = body[: declaration.start()] + body[declaration.end() :] if declaration else body
    return head + _without_prolog(rest), charset


def _known(name: str) -> str | None:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


def _without_prolog(body: bytes) -> bytes:
    """From the first start tag on. Comments and the document type are skipped as wholes, so that neither can hide the other."""
    at = 0
    while (at := body.find(b"<", at)) >= 0:
        if body.startswith(b"<!--", at):
            at = _behind(body, b"-->", at + 4)
        elif body.startswith(b"<?", at):
            # One that nothing closes is what is left of a torn declaration; all that follows would be lost with it.
            at = _behind(body, b"?>", at + 2) if body.find(b"?>", at) >= 0 else at + 2
        elif body.startswith(b"<!", at):
            at = _behind_declaration(body, at + 2)
        elif body[at + 1 : at + 2].isalpha() or body[at + 1 : at + 2] == b"_":
            return body[at:]
        else:
            at += 1
    return b""


def _behind(body: bytes, end: bytes, at: int) -> int:
    found = body.find(end, at)
    return len(body) if found < 0 else found + len(end)


def _behind_declaration(body: bytes, at: int) -> int:
    """Past `<!DOCTYPE name "literal" [ declarations, comments, literals ]>`."""
    depth = 0
    token = re.compile(rb"<!--|<\?|[\"'\[\]<>]")
    while found := token.search(body, at):
        at, what = found.end(), found.group()
        if what == b"<!--":
            at = _behind(body, b"-->", at)
        elif what == b"<?":
            at = _behind(body, b"?>", at)
        elif what in (b'"', b"'"):
            at = _behind(body, what, at)
        elif what in (b"[", b"<"):
            depth += 1
        elif depth == 0 and what == b">":
            return at
        else:
            depth = max(0, depth - 1)
    return len(body)
