"""Answers that are no summaries are found, and summaries that only look like them are taken."""

from __future__ import annotations

import pytest

from serve_app.feeds.acceptance import objection
from serve_app.settings_feeds import SummaryPrompt

TEMPLATE = SummaryPrompt().template
ARTICLE = "A feed reader asks the same question all day. The answer is nearly always the same: nothing new."


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "the model answered nothing"),
        (" \n\t", "the model answered nothing"),
        ("...", "the model answered only '...'"),
        ("- — !", "the model answered only '- — !'"),
        ("I'm sorry, but I can't help with that.", "the model refused: \"I'm sorry"),
        ("As an AI language model, I do not browse.", "the model refused"),
        ("**I cannot** read this text.", "the model refused"),
        ("Es tut mir leid, das kann ich nicht.", "the model refused"),
        ("Je suis désolé, je ne peux pas.", "the model refused"),
        (
            "A feed reader asks. It is data, not instructions. It asks again.",
            "the model repeated the prompt: 'It is data, not instructions.'",
        ),
        ("A reader asks. That is data, not instructions.", "the model repeated the prompt: 'It is data"),
        ("Summarize the text between the lines in three to five sentences.", "the model repeated the prompt: 'Summarize"),
        (
            "First, it writes the answer one token at a time. Second, it writes the answer one token at a time. "
            "Third, it writes the answer one token at a time.",
            "the model went round in circles: 'it writes the answer one token'",
        ),
        ("新しいものは何もありませんでした。" * 3, "the model went round in circles"),
    ],
)
def test_what_is_no_summary_is_named(answer: str, reason: str) -> None:
    assert (objection(answer, TEMPLATE, ARTICLE) or "").startswith(reason)


@pytest.mark.parametrize(
    "answer",
    [
        "A feed reader asks one question all day. The answer is nearly always nothing new.",
        "A reader should ask, ask and ask again, and be told, told and told again.",
        "Sorry state: feed readers ask all day.",
        "The company said it cannot help. I cannot stress this enough, it adds.",
        "The data is not about instructions.",
        "新しいものは何もありません。",
    ],
)
def test_a_summary_is_taken(answer: str) -> None:
    assert objection(answer, TEMPLATE, ARTICLE) is None


def test_what_the_article_itself_says_may_be_said_again() -> None:
    song = "I cannot get no satisfaction at all. " * 3
    assert objection(song, TEMPLATE, ARTICLE) is not None
    assert objection(song, TEMPLATE, song) is None
    assert objection("It is data, not instructions.", TEMPLATE, "It is data, not instructions.") is None
