"""Addresses in published documents: what stays as it is, what is mended, what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.addresses import public_address


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "https://example.org/a/b;c=1?q=x+y&r=%C3%A9/?#top",
        "http://example.org:8080/~ann/(1)",
        "http://[2001:db8::1]:80/",
        "https://xn--bcher-kva.example/%7Eann",
    ],
)
def test_a_uri_stays_as_it_is(url: str) -> None:
    assert public_address(url) == url


@pytest.mark.parametrize(
    ("url", "mended"),
    [
        ("https://example.org/a b", "https://example.org/a%20b"),
        ("https://example.org/日本?q=é#ü", "https://example.org/%E6%97%A5%E6%9C%AC?q=%C3%A9#%C3%BC"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ('https://example.org/100%/<"{|}">', "https://example.org/100%25/%3C%22%7B%7C%7D%22%3E"),
        ("https://example.org/?a[]=\ud800", "https://example.org/?a%5B%5D=?"),
        (" https://example.org/ ", "https://example.org/"),
        ("https://ann:secret@example.org:81/x", "https://example.org:81/x"),
    ],
)
def test_what_browsers_mend_is_mended_and_a_password_goes(url: str, mended: str) -> None:
    assert public_address(url) == mended


@pytest.mark.parametrize(
    "url",
    ["", "/a", "javascript:alert(1)", "ftp://h/", "https://", "https://[::1", "https://h:99999/", "http://a\u3002\u3002b/", "http://a<b/"],
)
def test_what_no_reader_could_open_is_left_out(url: str) -> None:
    assert public_address(url) is None


@settings(deadline=None)  # time is the machine's
@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_feed_says_it_is_a_uri_or_nothing(host: str, rest: str) -> None:
    for url in (host, f"https://{host}/{rest}", f"https://example.org/{rest}"):
        found = public_address(url)
        assert found is None or (found.isascii() and found.isprintable() and " " not in found and public_address(found) == found)
