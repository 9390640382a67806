"""A trial check against a real server: each step says what it found, a wrong one ends it, and nothing is stored."""

from __future__ import annotations

import gzip
import pathlib
from typing import Any

import pytest

from serve_app.errors import Overloaded, Unavailable
from serve_app.feeds.check import parse_here
from serve_app.feeds.fetch import Fetcher
from serve_app.feeds.probe import probe
from serve_app.feeds.service import MAX_PROBES, FeedsService
from serve_app.messages import Answer, Ask
from serve_app.messages_feeds import Probe
from serve_app.settings import AppSettings, ModelSettings
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.database import Database
from serve_app.store.feed_list import feed_id
from tests.fast.fakes_feeds import LONG, FakeFeed, FakeFeedServer, settings_for

NOW = 1_710_000_000.0


async def tried(url: str, store: ArticleStore | None = None, **values: object) -> Probe:
    settings = settings_for(**values)
    return await probe(url, settings, Fetcher(settings, gap_s=0.0, now=lambda: NOW), parse_here, NOW, store)


def steps(found: Probe) -> dict[str, str]:
    return {step.name: step.text for step in found.steps}


def details(found: Probe, name: str) -> dict[str, Any]:
    return next(step.details for step in found.steps if step.name == name)


async def test_every_step_of_a_good_feed_says_what_it_found() -> None:
    feed = FakeFeed("News").entry("a").entry("b", text=f"{LONG} More.").entry("same", "About a").entry("short", text="two words")
    body = feed.body().replace(b"<channel>", b"<channel><ttl>120</ttl><skipHours><hour>3</hour></skipHours>")
    async with FakeFeedServer() as server:
        headers = {
            "Content-Encoding": "gzip",
            "ETag": '"1"',
            "Cache-Control": "max-age=7200",
            "Content-Type": "application/rss+xml",
            "Set-Cookie": "a=b",
        }
        final = server.serve("/feed", gzip.compress(body), {**headers, "Link": '<https://hub.test/>; rel="hub"'})
        found = await tried(server.redirect("/old", "/feed", 301))
    assert (found.ok, found.url, [step.ok for step in found.steps]) == (True, server.url("/old"), [True] * 9)
    assert [step.name for step in found.steps] == [
        "address", "request", "request", "body", "parse", "entries", "full text", "hub", "schedule",
    ]  # fmt: skip
    said = steps(found)
    assert said["address"] == f"{server.url('/old')}: not on the list"
    assert [step.text for step in found.steps[1:3]] == [f"GET {server.url('/old')}, status 301, to /feed", f"GET {final}, status 200"]
    assert said["body"].endswith(f"bytes received as gzip, {len(body):,} decoded; the next check will send back its ETag; "
                                 f"permanent redirects lead to {final}, believed when they prove true")  # fmt: skip
    assert said["parse"] == "RSS 2.0 in utf-8 'News'"
    assert said["entries"] == "4 entries, 4 new, 1 with the text of another entry here, 1 skipped (only 2 words); 3 would be summarised"
    assert said["full text"] == "25 words in the median entry; full_text is not set for this feed"
    assert said["hub"] == "https://hub.test/; not used, because websub_callback_url is not set"
    assert said["schedule"].startswith(
        "fresh for 2 h; asks to be left alone for 2 h; an entry every 1 h; skips h3: the next check would come in"
    )
    headers = details(found, "body") | found.steps[2].details["headers"]
    assert (headers["ETag"], headers["content_type"], "Set-Cookie" in headers) == ('"1"', "application/rss+xml", False)
    assert details(found, "schedule")["next_check_at"] >= NOW + 7200


async def test_a_feed_on_the_list_is_compared_with_what_is_stored_and_nothing_is_changed(database_url: str) -> None:
    database = Database(database_url)
    store = ArticleStore(database)
    store.lease(LEASE, "me", 0.0, 1e9)
    async with FakeFeedServer() as server:
        server.entry("a")
        store.add_feed(server.url(), 1.0, {"full_text": False})
        before = store.feeds()
        found = await tried(server.url(), store)
        assert (store.feeds(), sum(store.counts().values())) == (before, 0)
    database.close()
    assert steps(found)["address"] == f"{server.url()}: on the list as {feed_id(server.url())}, new"
    assert steps(found)["full text"].endswith("full_text is off for this feed")


async def test_a_web_page_names_its_feeds() -> None:
    page = b'<!doctype html><link rel="alternate" type="application/rss+xml" href="/rss"><body>Hi'
    async with FakeFeedServer() as server:
        found = await tried(server.serve("/", page))
        assert (found.ok, found.feeds) == (False, (server.url("/rss"),))
    assert [step.name for step in found.steps if not step.ok] == ["parse"]
    assert steps(found)["schedule"] == "failure 1 in a row: the next check would come in 1 h to 1.25 h, by chance"


async def test_a_refused_hop_shows_what_it_resolved_to() -> None:
    async with FakeFeedServer() as server:
        found = await tried(server.url(host="localhost"), allow_private_hosts=())
    assert [step.name for step in found.steps if not step.ok] == ["request", "fetch"]
    assert {"address": "127.0.0.1", "allowed": False} in details(found, "request")["addresses"]
    assert "127.0.0.1 (refused), no reply" in steps(found)["request"]
    assert "add 'localhost' to allow_private_hosts" in steps(found)["fetch"]


async def test_retry_after_and_410_say_what_would_follow() -> None:
    async with FakeFeedServer() as server:
        busy = await tried(server.serve("/busy", b"", {"Retry-After": "7200"}, 429))
        gone = await tried(server.serve("/gone", b"", status=410))
    assert "would come in 2 h" in steps(busy)["schedule"]
    assert details(busy, "request")["headers"]["Retry-After"] == "7200"
    assert steps(gone)["schedule"] == "no further check: the feed would be shown as gone until a person refreshes it"


@pytest.mark.parametrize("url", ["ftp://ann:secret@example.org/", "https://ann:secret@10.0.0.1/feed", "http://ann:secret@localhost:1/x"])
async def test_no_step_shows_a_password(url: str) -> None:
    found = await tried(url)
    assert (found.ok, "secret" in repr(found)) == (False, False)


async def test_a_redirect_with_a_password_does_not_show_it() -> None:
    async with FakeFeedServer() as server:
        found = await tried(server.redirect("/a", "http://ann:secret@10.0.0.1/"))
    assert (found.ok, "secret" in repr(found), "10.0.0.1" in repr(found)) == (False, False, True)


async def never(ask: Ask) -> Answer:
    raise AssertionError("a trial check asks no model")


async def test_the_service_tries_a_few_addresses_at_once_and_no_more(tmp_path: pathlib.Path, database_url: str) -> None:
    service = FeedsService(AppSettings(data_dir=str(tmp_path), database_url=database_url, model=ModelSettings(id="tiny")), "one", never)
    with pytest.raises(Unavailable, match="no settings yet"):
        await service.check_feed("sample:")
    await service.tune({"feeds": []})
    found = await service.check_feed("sample:")
    assert (found.ok, details(found, "entries")["new"] > 0) == (True, True)
    service._num_probes = MAX_PROBES
    with pytest.raises(Overloaded, match="try again later"):
        await service.check_feed("sample:")
    await service.stop()
