"""The words that the gate knows: what may be left out, what stands for what, and the ways in which a question begins. Data only.

Short on purpose. A word that is missing here costs a hit; a wrong line serves a wrong answer, so each must hold in every sentence.
Tests: tests/fast/test_similar_gate.py, and the labelled pairs in tests/model/test_similar.py.
"""

from __future__ import annotations

import re


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    return {word: same.replace("_", " ") for word, same in (pair.split("=") for pair in text.split())}


ARTICLES = _set("a an the")
BE = _set("is are am be")
DO = _set("do does")
LEFT_OUT = ARTICLES | {"there"}
NEGATIONS = _set(
    """
    not no non never none nobody nothing nowhere neither nor without cannot unless except hardly barely fail refuse lack avoid stop
    """
)
PARTICLES = _set("on off up down in out")
ADVERBS = _set("briefly shortly quickly simply clearly easily exactly really precisely properly safely correctly")
MOVERS = (ADVERBS, PARTICLES)
PERSONS = _set("me my mine us our you your yours myself yourself")
SUBJECTS = _set("i you we he she it they the a an my your his her our their this that these those")

# Common words that are also names: a capital tells them apart, also where the writer uses no others.
AMBIGUOUS = _set(
    """
    amazon apple april august bill black brown chad china chip excel frank georgia go green grace hope ivory it java jordan june mark march
    may mercury mobile nice oracle order outlook pages polish python reading rich rose ruby rust shell swift target teams turkey us windows
    white who will windows word
    """
)

NUMBERS = _pairs(
    """
    zero=0 one=1 two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 twelve=12 thirteen=13 fourteen=14
    fifteen=15 sixteen=16 seventeen=17 eighteen=18 nineteen=19 twenty=20 thirty=30 forty=40 fifty=50 sixty=60 seventy=70 eighty=80
    ninety=90
    """
)
ORDINALS = _pairs(
    """
    first=1th second=2th third=3th fourth=4th fifth=5th sixth=6th seventh=7th eighth=8th ninth=9th tenth=10th eleventh=11th
    twelfth=12th
    """
)
QUANTITIES = _set("hundred thousand million billion dozen half quarter double triple twice once both all percent")
SCALES = {"k": 1000, "K": 1000}  # `m` may be metres, minutes or millions
UNITS = {"%": "percent", "€": "euro", "$": "dollar", "£": "gbp", "¥": "yen", "°": "degree"}

# Spellings and abbreviations of one word, and words that are the same in every sentence.
SAME = _pairs(
    """
    colour=color favourite=favorite favour=favor honour=honor behaviour=behavior neighbour=neighbor flavour=flavor labour=labor
    humour=humor centre=center kilometre=kilometer litre=liter theatre=theater fibre=fiber licence=license
    defence=defense grey=gray tyre=tire programme=program aeroplane=airplane aluminium=aluminum organise=organize
    organisation=organization summarise=summarize analyse=analyze optimise=optimize recognise=recognize realise=realize
    fridge=refrigerator tv=television photo=photograph webpage=page-web km=kilometer kg=kilogram frequently=often automobile=car
    repair=fix purchase=buy compose=write compute=calculate begin=start movie=film whom=who which=what people=person
    men=man women=woman children=child mice=mouse feet=foot teeth=tooth countries=country cities=city into=to enable=turn_on
    disable=turn_off cannot=can_not
    """
)
KEEPS_ITS_S = _set(
    """
    authorities belongings brains contents damages earnings forces grounds looks manners odds premises proceeds remains savings spirits
    stairs thanks woods
    across always arms athletics besides bus cons customs economics ethics gas glasses goods hers his its lens less mathematics
    means minus news ours perhaps physics plus politics pros series shorts species status theirs this us virus yes
    """
)
PHRASES = tuple(
    (re.compile(rf"{pattern}(?!\S)" if pattern.startswith("^") else rf"(?<!\S){pattern}(?!\S)"), same)
    for pattern, same in (
        (r"e mail", "email"),
        (r"web page", "page-web"),
        (r"back up", "backup"),
        (r"aero plane", "airplane"),
        (r"switch on", "turn on"),
        (r"switch off", "turn off"),
        (r"how much time", "how long"),
        (r"(?:what is )?the number of", "how many"),
        (r"not (i|you|we|he|she|it|they)", r"\1 not"),  # "shouldn't I" is "should I not"
        (r"a (few|little)", r"some-\1"),  # few and a few are not the same
        (r"^what (\w+) is the (\w+est)", r"what is the \2 \1"),
    )
)

# What is said before a question, or after it, and changes nothing in the answer.
GREETINGS = re.compile(
    r"(?:hello|hi|hey|good morning|please|kindly|thanks|thank you|many thanks)(?: |$)"
    r"|(?:i (?:would like|want) to know|do you know|i wonder) "
    r"|(?:can|could|would|will) you (?:please )?(?=(?:tell|explain|give|show|list|name|write|translate|summarize|describe|define)\b)"
    r"|(?:tell|show) me (?=(?:what|how|why|when|where|who|if)\b)|explain (?:to me )?(?=(?:how|why|when|where|who)\b)"
)
FAREWELLS = re.compile(r" (?:please|thanks|thank you|to me)$")

DEGREES = "much|many|long|often|far|tall|old|big|large|fast|high|deep|heavy|hot|cold|wide|soon|late|early|hard|strong|good|bad|well"

# How a question begins, and what that makes it. The first that fits counts. "Be" and "do" are kept apart: "what are cats like" is not
# "what do cats like".
FRAMES = tuple(
    (re.compile(f"(?:{pattern})(?: |$)"), name)
    for pattern, name in (
        (r"how (?:do|can|could|should|would) (?:i|we|one)|how to", "how"),
        (r"how (?:do|can|could|should|would) you", "how you"),
        (r"what (?:is|would be) (?:the|a) way to|what are the steps to", "how"),
        (r"what (?:do|must|should|can) i (?:have to |need to )?do to", "how"),
        (r"i (?:want|would like) to", "how"),
        (r"how (?:do|does|can)|in what way (?:do|does|can)", "how"),
        (r"how (?:is|are)|in what way (?:is|are)", "how be"),
        (r"how much is(?= [0-9])", "what be"),
        (rf"how(?= (?:{DEGREES}) )", "how much"),
        (r"how", "how"),
        (r"(?:what is the reason(?: that| why| for)?|why) (?:do|does)", "why do"),
        (r"why (?:is|are)", "why be"),
        (r"what is the reason(?: that| why)?|why", "why"),
        (r"(?:at what time|in what year|when) (?:do|does)", "when do"),
        (r"(?:at what time|in what year|when) (?:is|are)", "when be"),
        (r"at what time|in what year|when", "when"),
        (r"where (?:do|does)", "where do"),
        (r"where (?:is|are)", "where be"),
        (r"where", "where"),
        (r"who (?:do|does)", "who do"),
        (r"who (?:is|are)", "who be"),
        (r"who", "who"),
        (r"what is the (?:meaning|definition) of(?: the word)?|what is meant by|define|explain(?: what)?", "what be"),
        (r"what would be|what (?:is|are)|tell me(?= (?:the|all|your|my) )|(?:name|list)(?= (?:the|all) )", "what be"),
        (r"what (?:do|does)", "what do"),
        (r"(?:in |at |on |for |by )?what", "what"),
        (r"is|are|am", "is"),
        (r"do|does", "does"),
        (r"did", "did"),
        (r"was|were", "was"),
        (r"can|could", "can"),
        (r"(?:give|show) me", "do"),
    )
)
MEANING = re.compile(r"what (?:do|does) (.+) mean$")
BEING = re.compile(r"(?:explain )?what (.+) (?:is|are|means?)$")
