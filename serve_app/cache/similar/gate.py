"""May the answer to one question stand for another? Decided from their words alone: pure, no model, no store, no clock.

Cosine similarity cannot decide it: "how do I enable it" and "how do I disable it" are closer to each other than most paraphrases. So the
gate asks for more than that numbers, dates, negations, names, quotations, code and addresses agree: **every word that carries meaning must
be in both questions, in the same order**. What is left out (articles, forms of `be` and `do`, greetings) and what stands for what ("how
can I" and "how do I", "three" and "3", "colour" and "color") is listed in words.py. A list of opposites would have gaps; this has none:
a word that is not known to mean nothing means something. In languages whose words are not listed, all words must agree.
Tests: tests/fast/test_similar_gate.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from serve_app.cache.similar import words

Reason = Literal["sentences", "question", "literal", "number", "negation", "name", "word", "order"]

LITERAL = "="  # begins a token that is compared letter by letter
TOKEN = re.compile(
    r"(?P<code>```.*?```|`[^`]+`)"
    r"|(?P<address>https?://\S*[^\s.,;:!?)]|www\.\S*[^\s.,;:!?)]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?<![\w/])/[\w./-]*\w)"
    r"|(?P<quoted>\"[^\"]+\"|“[^”]+”|«[^»]+»|„[^“”]+[“”]|(?<!\w)['‘](?=\S)[^'’]*\S['’](?!\w))"
    r"|(?P<money>[$€£¥])\s?(?=\d)"
    r"|(?<![\w.])(?P<number>[-−+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-−+]?\d+(?:\.\d+)?)(?P<unit>st|nd|rd|th|%|°|€|\$|£|[A-Za-zµ]{1,3})?"
    r"(?=[\s,.;:!?)'\"-]|$)(?![.,:/-]\d)"
    r"|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)(?=[\s,;:!?)('’\"“”…—-]|\.(?:\s|$)|$)"
    r"|(?P<end>[.!?;:…]+)(?=\s|$)"
    r"|(?P<minus>(?<=\s)[-−](?=\s))"
    r"|(?P<comma>[,()—–'’\"“”-])"
    r"|(?P<other>\S+?(?=[.,;:!?)]*(?:\s|$)))",
    re.DOTALL,
)


CLITICS = {"ll": ["will"], "d": ["would"], "re": ["are"], "ve": ["have"], "m": ["am"], "s": ["'s"]}
KINDS: tuple[Reason, ...] = ("literal", "number", "negation", "word")


@dataclass(frozen=True, slots=True)
class Sentence:
    """How it asks (`frame`: how, what, why ... or do), and its words that carry meaning, in order and in one spelling.

    `capitalised` are those written as names in it, `first` is the one at its beginning, where a capital says nothing; `cased`: the writer
    uses capitals at all.
    """

    frame: str
    words: tuple[str, ...]
    capitalised: frozenset[str] = frozenset()
    first: str = ""
    cased: bool = False


def reading(text: str) -> tuple[Sentence, ...]:
    """What the gate understands of a question."""
    sentences: list[Sentence] = []
    tokens: list[str] = []
    names: set[str] = set()
    cased = any(letter.isupper() for letter in text)
    for token, is_name in [*_tokens(text), ("", False)]:
        if token:
            tokens.append(token)
            if is_name and len(tokens) > 1:
                names.update(_singular(token).split())
            continue
        if tokens and (sentence := _sentence(tokens, frozenset(names), cased)) is not None:
            sentences.append(sentence)
        tokens, names = [], set()
    return tuple(sentences)


def conflict(a: tuple[Sentence, ...], b: tuple[Sentence, ...]) -> Reason | None:
    """Why the answer to one must not stand for the other; None where it may."""
    if len(a) != len(b):
        return "sentences"
    return next((found for one, other in zip(a, b, strict=True) if (found := _differ(one, other))), None)


def _differ(a: Sentence, b: Sentence) -> Reason | None:
    counts, others = Counter(a.words), Counter(b.words)
    different = [*(counts - others), *(others - counts)]
    if different:
        return min((_kind(word) for word in different), key=KINDS.index)
    if a.frame != b.frame:
        return "question"
    names = (a.capitalised ^ b.capitalised) - {a.first, b.first}
    if names and ((a.cased and b.cased) or names & words.AMBIGUOUS):
        return "name"
    return None if _fixed(a.words) == _fixed(b.words) else "order"


def _kind(word: str) -> Reason:
    if word.startswith(LITERAL):
        return "literal"
    if word[:1].isdigit() or word[:1] in "+-" or word in words.QUANTITIES:
        return "number"
    return "negation" if word in words.NEGATIONS else "word"


def _fixed(found: tuple[str, ...]) -> list[str]:
    """The words whose order matters. One adverb and one particle may stand elsewhere: "turn it off" is "turn off it"."""
    kept = list(found)
    for movers in words.MOVERS:
        moving = [word for word in kept if word in movers]
        if len(moving) == 1:
            kept.remove(moving[0])
    return kept


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Tokens and whether each is written like a name; an empty one at the end of a sentence."""
    after_number = False
    for match in TOKEN.finditer(text.replace("’", "'")):
        found, measured, after_number = match[0], after_number, match.lastgroup in ("number", "unit")
        match match.lastgroup:
            case "end":
                yield "", False
            case "comma":
                continue
            case "word":
                for part in [_unit(found)] if measured else _word(found):
                    yield part, found[:1].isupper()
            case "money":
                yield words.UNITS[found.strip()], False
            case "number" | "unit":
                for part in _number(match["number"], match["unit"] or ""):
                    yield part, False
            case "quoted":
                yield LITERAL + "␣".join(found[1:-1].split()), False
            case _ if found in words.UNITS:
                yield words.UNITS[found], False
            case _:
                yield LITERAL + "␣".join(found.split()), False


def _word(found: str) -> list[str]:
    if any(letter.isupper() for letter in found[1:]) and not found.isupper():
        return [LITERAL + found]  # camelCase
    low = found.casefold()
    if low.endswith("n't"):
        return [{"ca": "can", "wo": "will", "sha": "shall"}.get(low[:-3], low[:-3]), "not"]
    head, _, tail = low.partition("'")
    if tail == "s" and head in ("what", "who", "how", "where", "when", "why", "it", "that", "there"):
        return [head, "is"]
    if head == "whats":
        return ["what", "is"]
    return [head, *CLITICS.get(tail, [tail] if tail else [])]


def _number(digits: str, unit: str) -> list[str]:
    plain = digits.replace(",", "").replace("−", "-").removeprefix("+")
    if unit in words.SCALES:
        scaled = float(plain) * words.SCALES[unit]
        return [f"{scaled:g}" if scaled % 1 else str(int(scaled))]
    if unit in ("st", "nd", "rd", "th"):
        return [f"{plain}th"]
    if unit in words.UNITS:
        return [plain, words.UNITS[unit]]
    return [plain, _unit(unit)] if unit else [plain]


def _unit(found: str) -> str:
    """Behind a number, MB and Mb are not the same."""
    return LITERAL + found if len(found) < 4 and not found.islower() else found.casefold()


def _sentence(tokens: list[str], names: frozenset[str], cased: bool) -> Sentence | None:
    text = " ".join(word for token in tokens for word in words.SAME.get(token, token).split())
    for pattern, same in words.PHRASES:
        text = pattern.sub(same, text)
    while match := words.GREETINGS.match(text):
        text = text[match.end() :]
    frame, text, begun = _frame(words.FAREWELLS.sub("", text))
    kept = text.split()
    if frame.startswith("what") and len(kept) > 1 and kept[-1] in ("at", "in", "for", "on", "to"):
        kept.pop()  # "what temperature is it baked at"
    helps = next((at for at, word in enumerate(kept[:-1]) if word in words.DO and kept[at + 1] in words.SUBJECTS), None)
    if helps is not None and not begun:
        del kept[helps]  # the first `do` helps to ask, unless the beginning had it; another one is what is done
    said = tuple(_singular("be" if word in words.BE else word) for word in kept if word not in words.LEFT_OUT)
    if frame == "how you":
        frame = "how" if len(said) > 1 and not words.PERSONS & set(said) else frame  # "you" is anybody, or the one who is asked
    if not said and frame == "do":
        return None  # while "explain why:" asks something, without a word of its own
    return Sentence(frame, said, names & set(said), _singular(tokens[0]), cased)


def _frame(text: str) -> tuple[str, str, bool]:
    """How it asks, the rest, and whether the beginning has taken the helping verb."""
    for pattern in (words.MEANING, words.BEING):
        if match := pattern.match(text):
            return "what be", match[1], True
    for begins, name in words.FRAMES:
        if match := begins.match(text):
            return name, text[match.end() :], name.endswith((" do", " be", "you")) or name in ("how", "do")
    return "do", text, True


def _singular(word: str) -> str:
    if word in words.NUMBERS or word in words.ORDINALS:
        return words.NUMBERS.get(word) or words.ORDINALS[word]
    word = words.SAME.get(word, word)
    plural = word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")) and word not in words.KEEPS_ITS_S
    if word.startswith(LITERAL) or not plural:
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "oes")):
        return word[:-2]
    return words.SAME.get(word[:-1], word[:-1])
