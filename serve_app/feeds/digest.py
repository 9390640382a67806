"""From a model's answer to what is shown of an article: one line, a summary, tags, and how much of it the article bears out. Pure.

A model that follows instructions may mark the parts, in lines that begin with `Headline:`, `Summary:` and `Tags:`. One that does not gives
plain sentences; the first of them then is the line, and tags are the words of the vocabulary that stand in the article, or the entry's own.
Tests: tests/fast/test_feeds_digest.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_app.feeds.prompt import SENTENCE_END
from serve_app.feeds.text import one_line
from serve_app.messages_feeds import TagsFrom

MAX_LINE = 140  # characters of the one line
MAX_TAGS, MAX_TAG = 5, 40
MAX_MISSING = 5  # names and numbers that are shown as not found
PART = re.compile(r"^[\s*#>-]*(headline|title|summary|tags|topics)\s*\**\s*:\s*\**", re.IGNORECASE | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?!\w|[.,]\d)")
WORD = re.compile(r"(?<!\w)[^\W\d_][\w'’-]*(?:\.\d[\w'’-]*)*|\d[\w.,]*|[^\w\s'’-]|_")  # the last two end a name
THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,]|\.\d)")
SMALL = frozenset(("de", "del", "der", "des", "di", "du", "la", "le", "of", "the", "van", "von"))  # inside a name
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True)
class Parts:
    """An answer taken apart; `headline` and `tags` empty where it marks none."""

    headline: str
    summary: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grounding:
    """Which share of a summary's names and numbers stand in the article, from 0 to 1; None where it has none. `missing`: some of the
    others."""

    share: float | None
    missing: tuple[str, ...] = ()


def parts(answer: str) -> Parts:
    """The marked parts of an answer; all of it is the summary where none is marked as such."""
    marks = list(PART.finditer(answer))
    found: dict[str, str] = {}
    for mark, following in zip(marks, [*marks[1:], None], strict=False):
        name = {"title": "headline", "topics": "tags"}.get(mark[1].lower(), mark[1].lower())
        found.setdefault(name, answer[mark.end() : following.start() if following else None].strip())
    if not found.get("summary"):
        return Parts("", answer if not marks else _without(answer, marks), ()) if "headline" not in found else _of_line(found)
    return Parts(one_line(found.get("headline", "")), found["summary"], _split(found.get("tags", "")))


def headline(marked: str, summary: str) -> str:
    """The line of an answer, or the first sentence of its summary; at most MAX_LINE characters, cut between words."""
    line = one_line(marked).strip('*"“” ')
    if not line:
        text = one_line(summary)
        end = next((found.end() for found in SENTENCE_END.finditer(text)), len(text))
        line = text[:end]
    if len(line) <= MAX_LINE:
        return line
    head = line[:MAX_LINE]
    return f"{head.rsplit(' ', 1)[0] if ' ' in head else head} {ELLIPSIS}"


def tags(marked: Sequence[str], own: Sequence[str], vocabulary: Sequence[str], text: str) -> tuple[tuple[str, ...], TagsFrom | None]:
    """At most MAX_TAGS tags and where they are from: the model's answer, the entry's own categories, or words of the text.

    With a vocabulary only its words are tags, spelled as there; those of the model first, else those that stand in the text, the most
    frequent first.
    """
    if vocabulary:
        known = {_plain(word): word for word in vocabulary}
        by_model = tuple(dict.fromkeys(known[_plain(tag)] for tag in marked if _plain(tag) in known))[:MAX_TAGS]
        if by_model:
            return by_model, "model"
        counts = Counter({word: len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)) for word in known.values()})
        in_text = tuple(word for word, count in counts.most_common(MAX_TAGS) if count)
        return in_text, "text" if in_text else None
    if by_model := _free(marked):
        return by_model, "model"
    of_entry = _free(own)
    return of_entry, "entry" if of_entry else None


def grounding(summary: str, article: str) -> Grounding:
    """How many of the summary's names and numbers the article has, in any case and without its punctuation.

    Names are words with a capital, a run of them as one; not the first word of a sentence, which has one anyway. Numbers count as they are
    written: 1,000 is 1000 and not a thousand.
    """
    heard = _flat(article)
    facts = list(dict.fromkeys((*_names(summary), *(_number(found) for found in NUMBER.findall(summary)))))
    if not facts:
        return Grounding(None)
    missing = [fact for fact in facts if not re.search(rf"(?<![\w.]){re.escape(_flat(fact))}(?!\w|\.\d)", heard)]
    return Grounding(1 - len(missing) / len(facts), tuple(missing[:MAX_MISSING]))


def _of_line(found: dict[str, str]) -> Parts:
    line, _, rest = found["headline"].partition("\n")
    return Parts(one_line(line), rest.strip() or line, _split(found.get("tags", "")))


def _without(answer: str, marks: Sequence[re.Match[str]]) -> str:
    """What stands before the first mark; an answer of marks alone stays as it is."""
    return answer[: marks[0].start()].strip() or answer


def _split(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip(" \t.#*-\"'") for part in re.split(r"[,;\n]", text))))


def _free(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (_plain(tag)[:MAX_TAG].rstrip() for tag in found))))[:MAX_TAGS]


def _plain(tag: str) -> str:
    return one_line(tag).strip(" #*.\"'").lower()


def _names(text: str) -> Iterable[str]:
    for sentence in re.split(r"(?<=[.!?…])\s+|\n", text):
        run: list[str] = []
        starts = True  # no word of the sentence has been seen
        for word in [*WORD.findall(sentence), ""]:
            if word[:1].isupper() or (run and word in SMALL):
                run.append(word)
                continue
            while run and run[-1] in SMALL:
                run.pop()
            if run and not (starts and len(run) == 1):
                yield " ".join(run[1:] if starts else run)
            run, starts = [], False


def _number(text: str) -> str:
    return THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)


def _flat(text: str) -> str:
    """Lower case, no commas inside numbers, no points but there, no possessives, single spaces."""
    text = _number(text.lower().replace("’", "'"))
    text = re.sub(r"(?<=\w)'s\b|\.(?!\d)|(?<!\d)\.", " ", text)
    return " ".join(re.findall(r"\w[\w.'-]*", text))
