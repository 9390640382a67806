"""An answer taken apart: the line, the summary, tags, and which names and numbers the article bears out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.feeds.digest import MAX_LINE, Parts, grounding, headline, parts, tags


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("One. Two.", Parts("", "One. Two.", ())),
        ("Headline: A line\nSummary: One. Two.\nTags: a, B; c.", Parts("A line", "One. Two.", ("a", "B", "c"))),
        ("**Headline:** A line\n\n**Summary:** One.\nTwo.\n\n**Tags:** #a, #b", Parts("A line", "One.\nTwo.", ("a", "b"))),
        ("# Title: A line\n- summary: One.\n- topics: a\n- b", Parts("A line", "One.", ("a", "b"))),
        ("Headline: A line\nOne. Two.\nTags: a", Parts("A line", "One. Two.", ("a",))),
        ("Headline: A line", Parts("A line", "A line", ())),
        ("One. Two.\nTags: a, b", Parts("", "One. Two.", ())),
        ("Tags: a", Parts("", "Tags: a", ())),
        ("It has a summary: short.", Parts("", "It has a summary: short.", ())),
    ],
)
def test_marked_parts_are_found_and_the_rest_is_the_summary(answer: str, found: Parts) -> None:
    assert parts(answer) == found


@given(st.text(alphabet="Headline: Summary:\nTags:\n*# ab.", max_size=80).filter(str.strip))
def test_whatever_is_said_there_is_a_summary(answer: str) -> None:
    assert parts(answer).summary.strip()


def test_the_line_is_the_models_or_the_first_sentence_and_short() -> None:
    assert headline("**A line**", "One. Two.") == "A line"
    assert headline("", "Version 2.0 is out. It is faster.") == "Version 2.0 is out."
    assert headline("", "No end in sight") == "No end in sight"
    assert headline("", "一つ目。二つ目。") == "一つ目。"
    long = headline("", "word " * 100)
    assert long.endswith("word …")
    assert len(long) <= MAX_LINE + 2


def test_tags_are_the_models_else_the_entrys_own_few_and_in_lower_case() -> None:
    assert tags(["Ray", "#LLM", "ray"], ["Tech"], (), "") == (("ray", "llm"), "model")
    assert tags([], ["Tech", "tech", " "], (), "") == (("tech",), "entry")
    assert tags([str(number) for number in range(9)], [], (), "")[0] == ("0", "1", "2", "3", "4")
    assert tags([], [], (), "") == ((), None)


def test_with_a_vocabulary_only_its_words_are_tags_as_they_are_spelled_there() -> None:
    words = ("Ray", "Caching", "C++", "GPU")
    assert tags(["caching", "RAY", "cats"], ["Tech"], words, "") == (("Caching", "Ray"), "model")
    assert tags(["cats"], ["GPU"], words, "A ray, two rays, C++ and c++: arrays.") == (("C++", "Ray"), "text")
    assert tags(["cats"], ["Tech"], words, "nothing") == ((), None)


@pytest.mark.parametrize(
    ("summary", "share", "missing"),
    [
        ("It is fast and cheap.", None, ()),
        ("Later the team of Ada Lovelace sold 1,000 engines in 1843.", 1.0, ()),
        ("It cost 14.5 dollars.", 1.0, ()),
        ("In the end Grace Hopper sold 2000 engines in 1843.", 1 / 3, ("Grace Hopper", "2000")),
        ("They met in Paris, and in London.", 0.5, ("London",)),
        ("Engines are sold. Nobody knows why.", None, ()),
        ("He calls Ada’s machine the Analytical Engine.", 1.0, ()),
        ("It cost 14 dollars.", 0.0, ("14",)),
    ],
)
def test_names_and_numbers_are_looked_for_in_the_article(summary: str, share: float | None, missing: tuple[str, ...]) -> None:
    article = "Ada Lovelace's Paris office\nThe Analytical Engine cost 14.5 dollars; in 1843 Ada Lovelace sold 1000 of them."
    found = grounding(summary, article)
    assert found.missing == missing
    assert found.share is None if share is None else found.share == pytest.approx(share)


@given(st.text(alphabet="aAbBéÉß 019.,'’s-_!?\n\"(", max_size=60))
def test_a_text_bears_itself_out(text: str) -> None:
    assert grounding(text, text).share in (None, 1.0)
