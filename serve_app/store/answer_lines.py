"""A stored answer as one line of JSON that carries its own digest: what Valkey holds, and what is exported and imported.

JSON, because whoever can write to the server or hands a file in must not be able to run code here. The digest finds damage; it is no
signature. Tests: tests/fast/test_answer_lines.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zlib
from typing import Any

from pydantic import TypeAdapter

from serve_app.logprobs import pack, unpack
from serve_app.messages import Finish
from serve_app.store.answers import StoredAnswer

PLAIN, ZLIB = b"1", b"2"  # first byte of a blob: how the rest is packed; raise both when the meaning of a line changes
MIN_COMPRESSED = 512  # bytes: below, an answer loses more in time than it gains in room
MAX_LINE_BYTES = 16_000_000  # of one answer: more is no answer, and a blob of some bytes may claim to be gigabytes
KEY = re.compile("[0-9a-f]{64}")
_FINISH = TypeAdapter(Finish)


def to_line(answer: StoredAnswer) -> str:
    """One line of ASCII."""
    fields = {
        "key": answer.key,
        "model": answer.model,
        "scope": answer.scope,
        "feed_id": answer.feed_id,
        "created_at": float(answer.created_at),
        "ttl_s": answer.ttl_s,
        "finish": dataclasses.asdict(answer.finish),
        "text": answer.text,
        **({"logprobs": pack(answer.logprobs)} if answer.logprobs else {}),
    }
    return _json({"digest": _digest(fields), **fields})


def from_line(line: str | bytes) -> StoredAnswer:
    """What `to_line` was given.

    Raises:
        ValueError: this is none, or it was changed since; the message says what is wrong.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not a line of JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    if fields.pop("digest", None) != _digest(fields):
        raise ValueError("its digest does not match: it was damaged or changed")
    try:
        return _answer(fields)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("not an answer of this version") from None


def to_blob(answer: StoredAnswer) -> bytes:
    """The same in bytes, compressed where it pays."""
    line = to_line(answer).encode()
    packed = zlib.compress(line, 1) if len(line) >= MIN_COMPRESSED else line
    return ZLIB + packed if len(packed) < len(line) else PLAIN + line


def from_blob(blob: bytes) -> StoredAnswer:
    """What `to_blob` was given.

    Raises:
        ValueError: as `from_line`.
    """
    kind, body = blob[:1], blob[1:]
    if kind == PLAIN:
        return from_line(body)
    if kind != ZLIB:
        raise ValueError("not an answer of this version")
    unpacker = zlib.decompressobj()
    try:
        line = unpacker.decompress(body, MAX_LINE_BYTES)
    except zlib.error:
        raise ValueError("it cannot be unpacked: it was damaged") from None
    if not unpacker.eof:
        raise ValueError("it is cut short, or longer than any answer")
    return from_line(line)


def _answer(fields: dict[str, Any]) -> StoredAnswer:
    finish = _FINISH.validate_json(json.dumps(fields["finish"]), strict=True)
    logprobs = unpack(fields.get("logprobs", ()))
    key, ttl_s = fields["key"], fields["ttl_s"]
    model, scope, feed_id, text = (_text(fields[name]) for name in ("model", "scope", "feed_id", "text"))
    if KEY.fullmatch(_text(key)) is None:
        raise ValueError
    created_at, ttl_s = _number(fields["created_at"]), None if ttl_s is None else _number(ttl_s)
    return StoredAnswer(key, model, scope, feed_id, text, finish, created_at, logprobs, ttl_s)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise TypeError
    return float(value)


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_json(fields).encode()).hexdigest()


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))
