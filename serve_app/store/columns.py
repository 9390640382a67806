"""Column types that are the same on SQLite and on PostgreSQL.

PostgreSQL takes no NUL in a text, and neither takes half of a surrogate pair, which is no UTF-8. Both come in from outside (a model's
byte tokens, a header of a feed, `%00` in a request), so every text of schema.py has one of these types.
Tests: tests/contract_store/texts.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.types import TypeDecorator

REFUSED = re.compile(r"[\x00\ud800-\udfff]")
ESCAPED = re.compile(r"[\x00\\\ud800-\udfff]")
ESCAPE = re.compile(r"\\([0-9a-f]{4})")

Int64 = BigInteger().with_variant(Integer(), "sqlite")  # a plain INTEGER has 64 bits there, and 32 on PostgreSQL


class CleanString(TypeDecorator[str]):
    """Names, and text for people: what a database refuses becomes U+FFFD, in what is stored and in what is looked for."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """See TypeDecorator."""
        return None if value is None else REFUSED.sub("\N{REPLACEMENT CHARACTER}", value)


class CleanText(CleanString):
    """The same, where a text may be long."""

    impl = Text
    cache_ok = True


class ExactText(TypeDecorator[str]):
    """Text that comes back as it went in, because a stored answer is the answer: what a database refuses is stored as `\\xxxx`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """See TypeDecorator."""
        return None if value is None else ESCAPED.sub(lambda found: f"\\{ord(found[0]):04x}", value)

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        """See TypeDecorator."""
        return None if value is None else ESCAPE.sub(lambda found: chr(int(found[1], 16)), value)


class Texts(TypeDecorator[tuple[str, ...]]):
    """A few short texts, as a JSON list; none is NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Any) -> str | None:
        """See TypeDecorator."""
        return json.dumps([REFUSED.sub("\N{REPLACEMENT CHARACTER}", text) for text in value], ensure_ascii=False) if value else None

    def process_result_value(self, value: str | None, dialect: Any) -> tuple[str, ...]:
        """See TypeDecorator."""
        return tuple(json.loads(value)) if value else ()
