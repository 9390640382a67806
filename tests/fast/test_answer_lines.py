"""A line or blob is the answer that it was made of, or it is refused; no byte of it can be changed unnoticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.store.answer_lines import MAX_LINE_BYTES, PLAIN, ZLIB, from_blob, from_line, to_blob, to_line
from tests.contract_store.answers import stored

LOGPROBS = (TokenLogprob(Candidate(b"\xf0\x9f", -0.1), (Candidate(b"\x00\xff", -3.25),), 3),)
LONG = stored(text="a text that repeats itself " * 100, ttl_s=60.0, logprobs=LOGPROBS)


@given(text=st.text(st.characters(exclude_categories=())), created_at=st.floats(0, 1e11), ttl_s=st.none() | st.floats(0, 1e9))
def test_an_answer_comes_back_from_its_line_and_its_blob(text: str, created_at: float, ttl_s: float | None) -> None:
    answer = stored(text=text, created_at=created_at, ttl_s=ttl_s, logprobs=LOGPROBS)
    assert from_line(to_line(answer)) == from_blob(to_blob(answer)) == answer
    assert "\n" not in to_line(answer)


def test_only_what_becomes_shorter_is_compressed() -> None:
    assert (to_blob(stored())[:1], to_blob(LONG)[:1]) == (PLAIN, ZLIB)
    assert len(to_blob(LONG)) < len(to_line(LONG)) / 2


@pytest.mark.parametrize("answer", [stored(), LONG], ids=["plain", "compressed"])
def test_no_bit_can_flip_and_no_end_be_missing_unnoticed(answer: object) -> None:
    blob = to_blob(answer)  # type: ignore[arg-type]
    chance = random.Random(3)
    for place in chance.sample(range(len(blob)), 200):
        flipped = bytearray(blob)
        flipped[place] ^= 1 << chance.randrange(8)
        with contextlib.suppress(ValueError):
            assert from_blob(bytes(flipped)) == answer  # a bit of the compression that changes nothing of the text
        with pytest.raises(ValueError, match=r"cut short|JSON|damaged|version"):
            from_blob(blob[:place])


def signed(**changes: object) -> str:
    """A line whose digest is right and whose content is not."""
    fields = {**json.loads(to_line(stored())), **changes}
    del fields["digest"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return json.dumps({"digest": hashlib.sha256(text.encode()).hexdigest(), **fields})


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "short"},
        {"key": 5},
        {"text": None},
        {"model": ["a"]},
        {"created_at": "now"},
        {"created_at": True},
        {"ttl_s": "60"},
        {"finish": {}},
        {"finish": {**json.loads(to_line(stored()))["finish"], "reason": "because"}},
        {"finish": {**json.loads(to_line(stored()))["finish"], "compute_s": "1"}},
        {"logprobs": [[1, 2, 3, 4]]},
    ],
    ids=str,
)
def test_a_right_digest_over_something_else_is_refused(changes: dict[str, object]) -> None:
    assert from_line(signed()) == stored()
    with pytest.raises(ValueError, match="not an answer of this version"):
        from_line(signed(**changes))


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", '{"digest": "0"}', "[" * 100_000, "\udc80"])
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|digest"):
        from_line(line)


@pytest.mark.parametrize("blob", [b"", b"\x80\x04pickle", b"0", PLAIN, ZLIB, ZLIB + zlib.compress(bytes(MAX_LINE_BYTES + 1))])
def test_what_is_no_blob_is_refused_and_a_bomb_is_not_unpacked(blob: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|digest|version|cut short"):
        from_blob(blob)
