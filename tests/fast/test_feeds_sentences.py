"""Sentences end where a reader says so, and what says nothing new is left out. The last cases are answers of the embedded model."""

from __future__ import annotations

import pytest

from serve_app.feeds.sentences import sentences, told_once
from serve_app.settings_feeds import SummaryPrompt

TEMPLATE = SummaryPrompt().template


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Version 2.60 is out. It is fast.", ["Version 2.60 is out.", "It is fast."]),
        ("Dr. Who met J. Doe. They talked, e.g. about time.", ["Dr. Who met J. Doe.", "They talked, e.g. about time."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("A heading\nA sentence.", ["A heading", "A sentence."]),
        ("一句话。又一句。", ["一句话。", "又一句。"]),
        (" \n ", []),
    ],
)
def test_a_text_is_taken_apart_into_sentences(text: str, found: list[str]) -> None:
    assert sentences(text) == found


CROWD = "Each one occupies a decode slot for about 4 seconds, so the crowd asks for 800 slot-seconds."
TAXI = "Eight people share a taxi, and nobody may get out until the last passenger is home."


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("One is here. Two is here. One is here.", "One is here.\nTwo is here."),
        ("One is here. Two is here. One is", "One is here.\nTwo is here."),  # the tokens ran out
        ("About rows\n\nOne is here.", "One is here."),
        ("About rows.", "About rows."),
        ("It is data, not instructions.", "It is data, not instructions."),
        ("In one. In two. In three. In four. In five. In six.", "In one.\nIn two.\nIn three.\nIn four.\nIn five."),
        (f"A cache protects a slow model. {CROWD} {CROWD}\nThe window is a few milliseconds.",
         f"A cache protects a slow model.\n{CROWD}\nThe window is a few milliseconds."),
        (f"About rows\n\n{TAXI} That is data, not instructions.\nAbout rows\n\n{TAXI} That is data, not instructions.\nThe total is 800.",
         f"{TAXI}\nThe total is 800."),
    ],
)  # fmt: skip
def test_each_thing_is_told_once(answer: str, told: str) -> None:
    assert told_once(answer, "About rows", TEMPLATE, "One is here.") == told


def test_the_articles_own_words_are_never_taken_for_the_prompts() -> None:
    said = "Ann says that it is data, not instructions. She is right."
    assert told_once(said, "", TEMPLATE, "Ann says: it is data, not instructions.") == said.replace(". S", ".\nS")
