"""Prompts for load tests: short questions, all different, and real prose to summarise, 300 to 500 tokens with the question. Pure.

The prose is what every machine has: Python's own language reference (`pydoc_data.topics`) and the bundled sample feed.
Tests: tests/fast/test_bench_workloads.py; that the lengths hold for the embedded model's tokenizer: tests/model/test_bench.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from importlib import resources

from serve_app.feed_url import SAMPLE_FEED
from serve_app.feeds.parse import parse
from serve_app.feeds.prompt import question
from serve_app.messages_feeds import Article
from serve_app.settings_feeds import SummaryPrompt

WORDS = 240  # of an article; with the question 333 to 423 tokens of the embedded model's
SUMMARY = SummaryPrompt(max_words=2 * WORDS)  # nothing is cut off
PROSE = 0.93  # the least share of letters and spaces of a paragraph; tables and code have less

PATTERNS = (
    "What is {}?",
    "Why does {} matter?",
    "Explain {} to a child.",
    "Name three facts about {}.",
    "Who works with {}?",
    "How has {} changed over time?",
    "Write one sentence about {}.",
    "What do people get wrong about {}?",
    "Where would I learn about {}?",
    "When did people first write about {}?",
    "Give an example of {}.",
    "What is the opposite of {}?",
    "How would you measure {}?",
    "Which tools does one need for {}?",
    "Describe {} in ten words.",
    "Is {} expensive?",
    "What comes after {}?",
    "Compare {} with the weather.",
    "Ask me a question about {}.",
    "Tell a short story about {}.",
)
SUBJECTS = (
    *("bread", "gravity", "a library", "the moon", "a bicycle", "rain", "an answer cache", "music", "a bridge", "salt"),
    *("a lighthouse", "the tide", "a compass", "glass", "a train", "wool", "coffee", "a garden", "the alphabet", "paper"),
    *("a volcano", "chess", "electricity", "a harbour", "the clock", "honey", "a forest", "iron", "a market", "sleep"),
    *("a map", "the wind", "a mirror", "paint", "a river", "sugar", "a telescope", "the post", "a violin", "snow"),
)


def short(number: int, salt: str = "") -> str:
    """The question of that number, about 15 tokens; no two numbers have the same. A salt makes it new to every cache."""
    text = PATTERNS[number % len(PATTERNS)].format(SUBJECTS[number // len(PATTERNS) % len(SUBJECTS)])
    lap = number // (len(PATTERNS) * len(SUBJECTS))
    notes = " ".join(note for note in (salt, f"no. {lap + 1}" if lap else "") if note)
    return f"{text} ({notes})" if notes else text


def article(number: int) -> str:
    """The request for a summary of the article of that number; after the last one they come again, under another title."""
    articles = _articles()
    lap, index = divmod(number, len(articles))
    title, text = articles[index]
    asked = _article(f"{title}, copy {lap + 1}" if lap else title, text)
    return question(asked, SUMMARY)[0].content


def prose(number: int) -> str:
    """The text alone of the article of that number, WORDS words; after the last one they come again."""
    articles = _articles()
    return articles[number % len(articles)][1]


@functools.cache
def _articles() -> tuple[tuple[str, str], ...]:
    """Title and text of WORDS words each; the sample feed first."""
    return tuple(
        (f"{title}, part {start // WORDS + 1}", " ".join(words[start : start + WORDS]))
        for title, words in (*_sample(), *_reference())
        for start in range(0, len(words) - WORDS + 1, WORDS)
    )


def _sample() -> Iterator[tuple[str, list[str]]]:
    body = resources.files("serve_app.sample").joinpath("feed.xml").read_bytes()
    for entry in parse(body, SAMPLE_FEED, "application/rss+xml").entries:
        yield entry.title, entry.text.split()


def _reference() -> Iterator[tuple[str, list[str]]]:
    from pydoc_data.topics import topics  # half a megabyte

    for title, text in sorted(topics.items()):
        yield title, [word for paragraph in text.split("\n\n") if _is_prose(paragraph) for word in paragraph.split()]


def _is_prose(paragraph: str) -> bool:
    line = " ".join(paragraph.split())
    return len(line) > 120 and sum(char.isalpha() or char == " " for char in line) > PROSE * len(line)


def _article(title: str, text: str) -> Article:
    return Article(title, "", title, "", title, "", None, 0.0, 0.0, text, "", "pending")
