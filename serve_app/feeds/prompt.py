"""From an article to a question, and from an answer to a summary. Pure.

The article is data: whatever it holds, it cannot close the fence that the template puts around it, nor speak as another turn of the
conversation. Tests: tests/fast/test_feeds_prompt.py.
"""

from __future__ import annotations

import hashlib
import re
from itertools import islice

from serve_app.feeds.text import WORD, num_words, one_line
from serve_app.messages import FinishReason, Message
from serve_app.messages_feeds import Article
from serve_app.settings_feeds import FeedOptions, SummaryPrompt

PLACES = re.compile(r"(\{title\}|\{text\})")
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]]*(?=\s|$)|[。！？\n]")
# What chat templates use to mark turns: tokenizers read these in a text as if the template had written them.
TURN_MARK = re.compile(
    r"<\|[^<>|\n]{1,60}\|>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\]"
)
MAX_CHARS_PER_WORD = 8
CLOSING = "\"'”’»*"  # quotation marks, and the stars of Markdown
TITLE_END = rf"[{CLOSING}]*(?:(?:[.:;!?…]+|\s*[–—|-]+)[{CLOSING}]*(?=\s|$)|[^\S\n]*\n)"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def question(article: Article, summary: SummaryPrompt) -> tuple[Message, ...]:
    """The conversation that asks for this article's summary."""
    fences = _fences(summary.template)
    filled = {
        "{title}": _harmless(article.title, fences),
        "{text}": _harmless(cut(article.best_text, summary.max_words), fences),
    }
    # In pieces, because a title may hold "{text}".
    return (Message("user", "".join(filled.get(piece, piece) for piece in PLACES.split(summary.template))),)


def for_feed(summary: SummaryPrompt, options: FeedOptions) -> SummaryPrompt:
    """The prompt of one feed's articles: its own template, language and tags, else those of all feeds. The version tells it from others:
    `2+a1b2c3:German` is version 2 with a template of the feed's own, by the beginning of its SHA-256, in German."""
    language = one_line(summary.language if options.language is None else options.language)
    template = options.prompt or summary.template
    own = "" if template == summary.template else f"+{hashlib.sha256(template.encode()).hexdigest()[:6]}"
    return summary.model_copy(
        update={
            "template": f"Answer in {language}. {template}" if language else template,
            "version": f"{summary.version}{own}{':' if language else ''}{language}",
            "tags": summary.tags if options.tags is None else options.tags,
        }
    )


def pieces(text: str, max_words: int, max_parts: int) -> tuple[str, ...]:
    """The text in parts of about the same length, each of at most `max_words` words as `cut` counts them, most ending with a sentence.
    What lies beyond `max_parts` of them is left out: one page of a book must not keep the model for hours."""
    if not is_long(text, max_words):
        return (text,)
    limit = min(max(num_words(text), -(-len(text) // MAX_CHARS_PER_WORD)), max_parts * max_words)
    each = -(-limit // -(-limit // max_words))
    found: list[str] = []
    while text and len(found) < max_parts:
        part = cut(text, min(max_words, each + each // 8)).removesuffix(f" {ELLIPSIS}")
        found.append(part)
        text = text[len(part) :].lstrip()
    return tuple(found)


def num_calls(text: str, summary: SummaryPrompt) -> int:
    """How many answers its summary takes, at least: one, or one for each part and one for them all."""
    if summary.long_articles == "cut" or not is_long(text, summary.max_words):
        return 1
    return len(pieces(text, summary.max_words, summary.max_parts)) + 1


def is_long(text: str, max_words: int) -> bool:
    """Whether `cut` would leave something out."""
    return cut(text, max_words) != text


def clean(text: str, reason: FinishReason, title: str = "") -> str:
    """An accepted answer on one line, without the title that small models like to begin with; one that ran into the token limit ends
    with its last whole sentence, where it has one."""
    line = one_line(_without_title(text, title))
    if reason != "length":
        return line
    ends = [found.end() for found in SENTENCE_END.finditer(line)]
    return line[: ends[-1]] if ends else line


def cut(text: str, max_words: int) -> str:
    """The first `max_words` words, and of "words" without end (Thai, base64) 8 characters per word; shorter if a sentence ends in the
    second half of that."""
    limit = MAX_CHARS_PER_WORD * max_words
    beyond = next(islice(WORD.finditer(text[:limit]), max_words, None), None)
    if beyond is None and len(text) <= limit:
        return text
    head = text[: beyond.start() if beyond else limit].rstrip()
    ends = [found.end() for found in SENTENCE_END.finditer(head) if found.end() > len(head) // 2]
    return head[: ends[-1]].rstrip() if ends else f"{head} {ELLIPSIS}"


def harmless(text: str, template: str) -> str:
    """A text that can neither close what this template puts around it nor speak as another turn of the conversation."""
    return _harmless(text, _fences(template))


def _without_title(text: str, title: str) -> str:
    """The text behind a title that is repeated word for word; only where a mark or a line's end closes it, as it may begin a sentence."""
    words = title.rstrip(f".:;!?…{CLOSING}").split()
    again = r"\s+".join(re.escape(word) for word in words)
    found = re.match(rf"[\s\"'“‘«*#]*{again}{TITLE_END}\s*", text, re.IGNORECASE) if words else None
    rest = text[found.end() :] if found else text
    return rest if any(char.isalnum() for char in rest) else text


def _fences(template: str) -> list[str]:
    """The lines of the template that hold no word and no place: what it puts around the article."""
    lines = {line.strip() for line in template.splitlines()}
    return sorted((line for line in lines if len(line) >= 2 and " " not in line and not line[0].isalnum() and line[0] != "{"), key=len)


def _harmless(text: str, fences: list[str]) -> str:
    text = TURN_MARK.sub(" ", text)
    for fence in fences:
        if len(set(fence)) == 1:  # a rule, such as -----: no run of it may be as long
            text = re.sub(f"{re.escape(fence[0])}{{{len(fence)},}}", fence[: max(1, len(fence) - 2)], text)
        while fence in text:
            text = text.replace(fence, " ")
    return text
