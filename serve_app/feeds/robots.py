"""What a site lets us read: robots.txt as RFC 9309 describes it. The rules are pure; `Robots` fetches and remembers them.

urllib.robotparser was looked at: it takes the first rule that fits where the RFC takes the longest, and knows neither `*` nor `$` in a
path. A file that is missing (4xx) allows all; one that cannot be had (5xx, no connection) allows nothing for now.
Tests: tests/fast/test_feeds_robots.py.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from cachetools import TTLCache

from serve_app.errors import FetchError

TOKEN = "frugalserve"  # as in our User-Agent, without case
MAX_BYTES = 500 * 1024  # section 2.5
MAX_RULES = 2_000
MAX_AGE_S = 86_400.0  # section 2.4
RETRY_S = 600.0  # so long a site whose file cannot be had is not asked again
MAX_SITES = 1_000
LINE = re.compile(r"^\s*([A-Za-z-]+)\s*:\s*(.*?)\s*(?:#.*)?$")
SAFE = "/?&=%:@!$'()*+,;~[]"  # stays as it is where a path is percent-encoded


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that hold for us: each a path pattern and whether it allows."""

    rules: tuple[tuple[str, bool], ...] = ()

    @classmethod
    def read(cls, body: bytes, token: str = TOKEN) -> Rules:
        """Those of all groups that name us, or else of those for everybody."""
        ours: list[tuple[str, bool]] = []
        everybody: list[tuple[str, bool]] = []
        named = False
        for agents, rules in _groups(body[:MAX_BYTES].decode("utf-8-sig", "replace")):
            if token in agents:
                named = True
                ours += rules
            elif "*" in agents:
                everybody += rules
        return cls(tuple((ours if named else everybody)[:MAX_RULES]))

    def allow(self, path: str) -> bool:
        """Whether a path with its query may be read: the longest pattern that fits decides, and of two equally long ones the kinder."""
        path = _encoded(path or "/")
        if path == "/robots.txt":
            return True
        fitting = [(len(pattern), allows) for pattern, allows in self.rules if _fits(pattern, path)]
        return max(fitting)[1] if fitting else True


def _groups(text: str) -> Iterator[tuple[set[str], list[tuple[str, bool]]]]:
    agents: set[str] = set()
    rules: list[tuple[str, bool]] = []
    has_rules = False
    for line in text.splitlines():
        found = LINE.match(line)
        name, value = (found[1].lower(), found[2]) if found else ("", "")
        if name == "user-agent":
            if has_rules:
                yield agents, rules
                agents, rules, has_rules = set(), [], False
            # "FrugalServe/1.0" names us as well, and so do letters of any case.
            agents.add("*" if value == "*" else re.sub(r"[^A-Za-z_-].*", "", value).lower())
        elif name in ("allow", "disallow"):
            has_rules = True
            if value:  # an empty one rules nothing out
                rules.append((_encoded(value), name == "allow"))
    yield agents, rules


def _encoded(path: str) -> str:
    """Octets outside of ASCII percent-encoded, escapes in capitals and only where needed: two spellings of a path compare equal."""
    plain = re.sub(r"%([0-9A-Fa-f]{2})", _escape, path)
    return quote(plain, safe=SAFE)


def _escape(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if char.isascii() and (char.isalnum() or char in "-._~") else f"%{found[1].upper()}"


def _fits(pattern: str, path: str) -> bool:
    """By hand, piece by piece: as a regular expression many stars would take for ever."""
    is_whole = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for piece in rest[:-1]:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    if not rest:
        return not is_whole or at == len(path)
    return path.endswith(rest[-1]) and len(path) - len(rest[-1]) >= at if is_whole else path.find(rest[-1], at) >= 0


class Robots:
    """The rules of each site, kept for a day. `fetch(url, feed_url)` gives a body or raises FetchError; `now` is in seconds."""

    def __init__(self, fetch: Callable[[str, str], Awaitable[bytes]], now: Callable[[], float]) -> None:
        self._fetch = fetch
        self._rules: TTLCache[str, Rules] = TTLCache(MAX_SITES, MAX_AGE_S, timer=now)
        self._away: TTLCache[str, str] = TTLCache(MAX_SITES, RETRY_S, timer=now)

    async def allow(self, url: str, feed_url: str) -> bool:
        """Whether a page may be read that an entry of this feed links to.

        Raises:
            FetchError: nobody knows now.
        """
        parts = urlsplit(url)
        site = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        if (why := self._away.get(site)) is not None:
            raise FetchError(why)
        if (rules := self._rules.get(site)) is None:
            rules = self._rules[site] = await self._read(site, feed_url)
        return rules.allow(f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path)

    async def _read(self, site: str, feed_url: str) -> Rules:
        try:
            return Rules.read(await self._fetch(f"{site}/robots.txt", feed_url))
        except FetchError as error:
            if error.http_status is not None and 400 <= error.http_status < 500 and error.http_status != 429:
                return Rules()
            self._away[site] = f"its robots.txt cannot be had: {error.message}"
            raise FetchError(self._away[site], retry_after_s=error.retry_after_s) from error
