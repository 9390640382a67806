"""What a check of an address would do, step by step, with nothing stored: the same fetch, parse and decisions, and what each of them found.

    address -> one request per hop -> body -> parse -> entries -> full text -> hub -> schedule

The first step that goes wrong is the last but one: the schedule after a failure follows it. The guards and the host's pacing hold as they
do for any check. Tests: tests/fast/test_feeds_probe.py.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

from serve_app.errors import FetchError
from serve_app.feed_url import check_feed_url, masked
from serve_app.feeds.check import Parse
from serve_app.feeds.decide import Hints, article_id, decide, next_check, rhythm
from serve_app.feeds.fetch import Fetched, NotModified
from serve_app.feeds.parse import ParsedFeed
from serve_app.feeds.text import num_words
from serve_app.feeds.trace import Hop, Hops
from serve_app.feeds.webpage import feeds_of
from serve_app.messages_feeds import Feed, Probe, ProbeStep
from serve_app.settings_feeds import FeedsSettings
from serve_app.store.articles import ArticleStore
from serve_app.store.feed_list import feed_id

MAX_TURN_S = 30.0  # so long a probe waits for its host's turn before it gives up


class Fetch(Protocol):
    """What is needed of a Fetcher."""

    async def fetch(
        self, url: str, etag: str | None = None, last_modified: str | None = None, *, hops: Hops | None = None
    ) -> Fetched | NotModified:
        """See fetch.Fetcher."""


async def probe(url: str, settings: FeedsSettings, fetcher: Fetch, parse: Parse, now: float, store: ArticleStore | None = None) -> Probe:
    """Try an address. With a `store`, what is known of a feed on the list is compared with; without one everything is new."""
    try:
        check_feed_url(url)
    except ValueError as error:
        return Probe(masked(url), False, (ProbeStep("address", False, str(error)),))
    listed = await asyncio.to_thread(_listed, store, url) if store is not None else None
    feed = listed or Feed(feed_id(url), url, "api", "new", "", now, now)
    steps, hops = [_address(feed, listed is not None)], Hops()
    try:
        async with asyncio.timeout(MAX_TURN_S + settings.total_timeout_s):
            reply = await fetcher.fetch(feed.address, hops=hops)
    except (FetchError, TimeoutError) as error:
        failure = error if isinstance(error, FetchError) else FetchError("other checks keep this host busy; try again later")
        steps += [*_requests(hops), ProbeStep("fetch", False, failure.message), _after_failure(feed, failure, settings, now)]
        return Probe(masked(url), False, tuple(steps))
    assert isinstance(reply, Fetched), "nothing was asked for on a condition"
    steps += [*_requests(hops), _body(reply, hops, settings)]
    try:
        parsed = await parse(reply.body, reply.url, reply.content_type)
    except FetchError as error:
        steps += [ProbeStep("parse", False, error.message), _after_failure(feed, error, settings, now)]
        return Probe(masked(url), False, tuple(steps), tuple(await asyncio.to_thread(feeds_of, reply.body, reply.url)))
    title = f" {parsed.title!r}" if parsed.title else ", without a title"
    steps.append(ProbeStep("parse", True, f"{parsed.verdict or 'a feed'}{title}", {"verdict": parsed.verdict, "title": parsed.title}))
    steps.append(await asyncio.to_thread(_entries, feed, parsed, settings, now, store))
    steps += [_full_text(feed, parsed), _hub(reply, parsed, settings), _schedule(reply, parsed, settings, now)]
    return Probe(masked(url), True, tuple(steps))


def _listed(store: ArticleStore, url: str) -> Feed | None:
    return next((feed for feed in store.feeds() if feed.id == feed_id(url)), None)


def _address(feed: Feed, is_listed: bool) -> ProbeStep:
    where = f"on the list as {feed.id}, {feed.state}" if is_listed else "not on the list"
    moved = f"; it has moved to {masked(feed.moved_to)}" if feed.moved_to else ""
    return ProbeStep("address", True, f"{masked(feed.url)}: {where}{moved}", {"feed_id": feed.id if is_listed else None})


def _requests(hops: Hops) -> Iterator[ProbeStep]:
    for hop in hops:
        details = {"url": hop.url, "addresses": [{"address": address, "allowed": allowed} for address, allowed in hop.addresses]}
        words = [f"GET {hop.url}", *_resolved(hop), "no reply" if hop.status is None else f"status {hop.status}"]
        words += [f"to {hop.headers['Location']}"] if "Location" in hop.headers else []
        yield ProbeStep("request", hop.status is not None, ", ".join(words), {**details, "status": hop.status, "headers": hop.headers})


def _resolved(hop: Hop) -> Iterator[str]:
    if hop.addresses:
        yield "at " + " ".join(f"{address}{'' if allowed else ' (refused)'}" for address, allowed in hop.addresses)


def _body(reply: Fetched, hops: Hops, settings: FeedsSettings) -> ProbeStep:
    received = hops[-1].num_received if hops else len(reply.body)
    coding = hops[-1].headers.get("Content-Encoding", "") if hops else ""
    text = f"{received:,} bytes received" + (f" as {coding}, {len(reply.body):,} decoded" if coding else "")
    validators = [name for name, value in (("ETag", reply.etag), ("Last-Modified", reply.last_modified)) if value]
    text += (
        f"; the next check will send back its {' and '.join(validators)}" if validators else "; no validator, so it comes whole each time"
    )
    moved = f"; permanent redirects lead to {masked(reply.moved_to)}, believed when they prove true" if reply.moved_to else ""
    details: dict[str, Any] = {"received_bytes": received, "decoded_bytes": len(reply.body), "limit_bytes": settings.max_feed_bytes}
    details |= {"content_type": reply.content_type, "etag": reply.etag, "last_modified": reply.last_modified}
    return ProbeStep("body", True, text + moved, details)


def _entries(feed: Feed, parsed: ParsedFeed, settings: FeedsSettings, now: float, store: ArticleStore | None) -> ProbeStep:
    guids, texts = [entry.guid for entry in parsed.entries], [entry.text_hash for entry in parsed.entries]
    known = store.known(feed.id, guids, texts) if store is not None else {}
    taken = store.taken([article_id(feed.id, guid) for guid in guids if guid not in known]) if store is not None else ()
    found = decide(feed, known, parsed, now, settings, taken)
    reasons = Counter(article.reason for article in found.new if article.state == "skipped")
    details = {
        "entries": len(parsed.entries),
        "left_out": parsed.num_left_out,
        "same_text": sum(count - 1 for count in Counter(texts).values()),
        "new": len(found.new),
        "changed": len(found.changed),
        "renamed": len(found.renamed),
        "to_summarise": sum(article.state == "pending" for article in (*found.new, *found.changed)),
        "skipped": {str(reason): count for reason, count in reasons.items()},
    }
    words = [f"{details['entries']} entries", f"{details['new']} new"]
    words += [f"{details[name]} {said}" for name, said in OTHERS.items() if details[name]]
    words += [f"{count} skipped ({reason})" for reason, count in reasons.items()]
    return ProbeStep("entries", True, f"{', '.join(words)}; {details['to_summarise']} would be summarised", details)


OTHERS = {
    "changed": "changed",
    "renamed": "under another id or link",
    "same_text": "with the text of another entry here",
    "left_out": "left out, because there are too many",
}


def _full_text(feed: Feed, parsed: ParsedFeed) -> ProbeStep:
    """How much text the feed itself carries, which is what the switch `full_text` is decided by."""
    words = int(statistics.median(num_words(entry.text) for entry in parsed.entries)) if parsed.entries else 0
    wanted = feed.options.get("full_text")
    switch = "not set for this feed" if wanted is None else "on for this feed" if wanted else "off for this feed"
    return ProbeStep(
        "full text", True, f"{words} words in the median entry; full_text is {switch}", {"median_words": words, "full_text": wanted}
    )


def _hub(reply: Fetched, parsed: ParsedFeed, settings: FeedsSettings) -> ProbeStep:
    hub, topic = (reply.hub, reply.topic) if reply.hub else (parsed.hub, parsed.topic)
    if hub is None:
        text = "none named"
    elif settings.websub_callback_url is None:
        text = f"{masked(hub)}; not used, because websub_callback_url is not set"
    else:
        text = f"{masked(hub)}; it would be asked to push, and while it does the feed is polled every {_spoken(settings.max_interval_s)}"
    return ProbeStep("hub", True, text, {"hub": hub and masked(hub), "topic": topic and masked(topic)})


def _schedule(reply: Fetched, parsed: ParsedFeed, settings: FeedsSettings, now: float) -> ProbeStep:
    found = rhythm(parsed, now)
    hints = Hints(reply.max_age_s, rhythm=found)
    said = {"max_age_s": reply.max_age_s, "asked_wait_s": found.asked_wait_s, "entry_gap_s": found.entry_gap_s}
    names = {"max_age_s": "fresh for", "asked_wait_s": "asks to be left alone for", "entry_gap_s": "an entry every"}
    words = [f"{names[name]} {_spoken(value)}" for name, value in said.items() if value]
    words += [f"skips {found.skips}"] if found.skips else []
    return _next("; ".join(words) or "no hints", hints, 0, settings, now, {**said, "skips": found.skips})


def _after_failure(feed: Feed, error: FetchError, settings: FeedsSettings, now: float) -> ProbeStep:
    if error.http_status == 410 and not feed.moved_to:
        return ProbeStep("schedule", True, "no further check: the feed would be shown as gone until a person refreshes it")
    hints = Hints(retry_after_s=error.retry_after_s)
    said = f"failure {feed.num_errors + 1} in a row"
    return _next(said, hints, feed.num_errors + 1, settings, now, {"retry_after_s": error.retry_after_s})


def _next(said: str, hints: Hints, num_errors: int, settings: FeedsSettings, now: float, details: dict[str, Any]) -> ProbeStep:
    first, last = (next_check(hints, num_errors, now, settings, jitter) for jitter in (0.0, 1.0))
    at_most = f" to {_spoken(last - now)}, by chance" if last > first else ""
    text = f"{said}: the next check would come in {_spoken(first - now)}{at_most}"
    return ProbeStep("schedule", True, text, {**details, "next_check_at": first, "next_check_at_most": last})


def _spoken(seconds: float) -> str:
    for size, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"
