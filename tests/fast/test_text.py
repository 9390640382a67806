"""No half characters, no stop strings, nothing lost: whatever the tokens are."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from serve_app.model.text import TextStream


def decode_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def feed(data: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What is sent for each byte as one token, and whether a stop string ended it."""
    text = TextStream(decode_bytes, stop)
    sent = []
    for byte in data:
        sent.append(text.push(byte))
        if text.stopped:
            return sent, True
    sent.append(text.close())
    return sent, text.stopped


def test_a_character_of_four_bytes_is_sent_when_its_last_byte_is_there() -> None:
    assert feed("a\N{GRINNING FACE}b".encode()) == (["a", "", "", "", "\N{GRINNING FACE}", "b", ""], False)


def test_bytes_that_are_no_character_are_sent_at_the_end() -> None:
    assert feed(b"a\xf0\x9f") == (["a", "", "", "\N{REPLACEMENT CHARACTER}"], False)


def test_a_stop_string_over_several_tokens_is_not_sent() -> None:
    assert feed(b"one\n\ntwo", ("\n\n",)) == (["o", "n", "e", "", ""], True)


def test_what_only_began_like_a_stop_string_is_sent_once_it_goes_on_otherwise() -> None:
    assert feed(b"a##b#", ("###",)) == (["a", "", "", "##b", "", "#"], False)


def test_the_first_of_two_stop_strings_wins() -> None:
    assert feed(b"xabcd", ("bcd", "ab")) == (["x", "", ""], True)


def test_a_stop_string_does_not_count_before_it_may() -> None:
    text = TextStream(decode_bytes, ("b",))
    assert [text.push(byte, may_stop=False) for byte in b"ab"] == ["a", "b"]
    assert (text.push(ord("b")), text.stopped) == ("", True)


@given(st.text(max_size=30), st.lists(st.text(alphabet="ab\n", min_size=1, max_size=3), max_size=2))
def test_what_is_sent_is_the_text_up_to_the_first_stop_string(whole: str, stop: list[str]) -> None:
    sent, stopped = feed(whole.encode(), tuple(stop))
    cut = min((at for at in map(whole.find, stop) if at >= 0), default=None)
    assert stopped == (cut is not None)
    if cut is None:
        assert "".join(sent) == whole
    else:
        assert whole.startswith("".join(sent))
        assert not any(word in "".join(sent) for word in stop)
