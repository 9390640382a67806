"""Markup becomes the text that a reader sees, in linear time, whatever the markup is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.feeds.text import num_words, one_line, text_hash, visible_text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One  two</p><p>three<br/>four</p>", "One two\nthree\nfour"),
        ("AT&amp;T &lt;b&gt; caf&eacute; &#8212; &nope;", "AT&T <b> café — &nope;"),
        ("a<script>if (1 < 2) { x('</p>') }</script>b<STYLE>p{}</style >c", "abc"),
        ("<svg><svg><title>x</title></svg>hidden</svg>seen<noscript>no</noscript>", "seen"),
        ('<img alt="a > b" src=x onerror="alert(1)">after', "after"),
        ("<pre>def f():\n    return 1</pre>", "def f():\nreturn 1"),
        ("line\none", "line one"),
        ("a < b and b > c <3", "a < b and b > c <3"),
        ("x<!-- <p>no</p> -->y<!doctype html>z<?php no ?>!<![CDATA[no]]>?", "xyz!?"),
        ("a <![bar[x]]> b <![if IE]>c<![endif]>", "a b c"),
        ("open <script>never closed", "open"),
        ("<iframe src=x>no</iframe>yes", "yes"),
        ("nul\x00 and \ud800 surrogate &#0;", "nul and surrogate �"),
        ("&#" + "9" * 5_000 + ";", "&#" + "9" * 5_000 + ";"),
    ],
)
def test_visible_text(markup: str, text: str) -> None:
    assert visible_text(markup) == text


@pytest.mark.parametrize(
    "piece", ["<!--", "</", "<a ", "<![", "<a x='", "<script>", "<title>a</", "&#", "<", "<!", "<?", "<svg>", "<pre>", "<a \"'>"]
)
def test_hostile_markup_takes_linear_time(piece: str) -> None:
    started = time.process_time()
    visible_text(piece * (500_000 // len(piece)))
    assert time.process_time() - started < 5  # html.parser takes minutes for some of these


@given(
    st.lists(
        st.sampled_from(["<", ">", "&", ";", "#", "!", "-", "/", "'", '"', "=", "p", "script", "pre", "[", "]", "\n", " ", "\x00", "x"])
    ).map("".join)
)
@settings(max_examples=300, deadline=None)
def test_no_markup_raises_and_the_text_is_tidy(markup: str) -> None:
    text = visible_text(markup)
    assert text == "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)


def test_texts_that_read_the_same_have_one_hash() -> None:
    assert text_hash("A  title", "caf\u00e9\n one") == text_hash(" A title ", "cafe\u0301 one\n")
    assert text_hash("A", "b c") != text_hash("A b", "c")


def test_words_are_counted_in_scripts_without_spaces_too() -> None:
    assert num_words("three short words") == 3
    assert num_words("日本語の記事") == 6
    assert one_line(" a\tb\nc ") == "a b c"
