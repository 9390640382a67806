"""Articles and feeds as JSON: the filter that reaches the graph, pages, and what may be changed."""

from __future__ import annotations

import dataclasses
import html
from typing import Any

import pytest

from serve_app.feeds.extract import MISSING
from serve_app.messages_feeds import ArticleQuery, ArticleState
from tests.fast.fakes_api import FakeServices, article, feed, summary
from tests.fast.fakes_http import client_of


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({}, ArticleQuery()),
        ({"feed": "feed0", "state": "failed", "text": "rust", "limit": "5"}, ArticleQuery("feed0", "failed", "rust", None, 5)),
        ({"feed": "", "state": "", "text": "", "since": "", "cursor": "", "limit": ""}, ArticleQuery()),
        ({"since": "2026-11-01"}, ArticleQuery(since=1793491200.0)),
        ({"tag": "Ray Serve"}, ArticleQuery(tag="Ray Serve")),
        ({"since": "2026-11-01T01:00:00+01:00"}, ArticleQuery(since=1793491200.0)),
        ({"since": "2026-11-01T00:00:00Z"}, ArticleQuery(since=1793491200.0)),
        ({"since": "1793491200.5"}, ArticleQuery(since=1793491200.5)),
    ],
)
async def test_the_filter_reaches_the_graph(params: dict[str, str], query: ArticleQuery) -> None:
    services = FakeServices()
    reply = await client_of(services).get("/v1/articles", params=params)
    assert (reply.status_code, services.queried) == (200, [query])


@pytest.mark.parametrize(
    ("params", "param", "words"),
    [
        ({"limit": "0"}, "limit", "from 1 to 100"),
        ({"limit": "101"}, "limit", "from 1 to 100"),
        ({"limit": "many"}, "limit", "a whole number"),
        ({"state": "open"}, "state", "pending, done, failed or skipped"),
        ({"since": "yesterday"}, "since", "send a date such as 2026-11-01"),
        ({"since": "nan"}, "since", "out of range"),
        ({"since": "1e300"}, "since", "out of range"),
        ({"limt": "5"}, "limt", "did you mean limit?"),
    ],
)
async def test_a_wrong_filter_is_named(params: dict[str, str], param: str, words: str) -> None:
    reply = await client_of(FakeServices()).get("/v1/articles", params=params)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert words in reply.json()["error"]["message"]


async def test_pages_join_up() -> None:
    client = client_of(FakeServices(all_articles=[article(f"a{i}") for i in range(5)]))
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await client.get("/v1/articles", params={"limit": 2, "cursor": cursor})).json()
        assert (page["object"], page["has_more"]) == ("list", page["next_cursor"] is not None)
        seen += [item["id"] for item in page["data"]]
        cursor = page["next_cursor"]
    assert seen == ["a0", "a1", "a2", "a3", "a4"]


async def test_a_list_leaves_the_texts_out_and_one_article_has_them() -> None:
    digest: dict[str, Any] = {"headline": "A short line.", "tags": ("ray", "caching"), "tags_from": "entry", "grounding": 0.5}
    made = dataclasses.replace(summary(), **digest, missing=("Paris",))
    client = client_of(FakeServices(all_articles=[article("a0", summary=made)]))
    short: dict[str, Any] = (await client.get("/v1/articles")).json()["data"][0]
    full: dict[str, Any] = (await client.get("/v1/articles/a0")).json()
    assert short == {
        "object": "article",
        "id": "a0",
        "feed_id": "feed0",
        "guid": "guid-a0",
        "link": "https://example.org/a0",
        "title": "Title a0",
        "author": "Ada",
        "published_at": 1_700_000_000.0,
        "first_seen_at": 1_700_000_100.0,
        "updated_at": 1_700_000_200.0,
        "state": "done",
        "reason": None,
        "attempts": 0,
        "next_try_at": None,
        "duplicate_of": None,
        "text_source": "feed",
        "text_note": None,
        "summary": {
            "text": "A short summary.",
            "model": "tiny/model",
            "prompt_version": "1",
            "cache": "miss",
            "prompt_tokens": 120,
            "completion_tokens": 20,
            "compute_s": 0.7,
            "cost_usd": 0.00001,
            "created_at": 1_700_000_300.0,
            "headline": "A short line.",
            "tags": ["ray", "caching"],
            "tags_from": "entry",
            "grounding": 0.5,
            "missing": ["Paris"],
        },
    }
    more = {"prompt_template": "{title} {text}", "text_hash": "h" * 64}
    assert full == {
        **short,
        "text": "First paragraph.\n\nSecond paragraph.",
        "page_text": "",
        "text_hash": "h" * 64,
        "summary": {**short["summary"], **more},
    }


@pytest.mark.parametrize("state", ["failed", "skipped"])
async def test_a_failed_or_skipped_article_is_tried_again_when_asked_for(state: ArticleState) -> None:
    client = client_of(FakeServices(all_articles=[article("a0", state=state, reason="why", summary=None)]))
    reply = await client.post("/v1/articles/a0/retry")
    assert (reply.status_code, reply.json()["state"], reply.json()["reason"]) == (202, "pending", None)
    again = await client.post("/v1/articles/a0/retry")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


async def test_a_pending_article_has_no_summary() -> None:
    services = FakeServices(all_articles=[article(state="pending", summary=None, published_at=None)])
    item = (await client_of(services).get("/v1/articles")).json()["data"][0]
    assert (item["state"], item["summary"], item["published_at"]) == ("pending", None, None)


async def test_feeds_are_added_listed_checked_and_removed() -> None:
    services = FakeServices(all_feeds={"feed0": feed(num_articles=(("done", 3), ("failed", 1)))})
    client = client_of(services)
    added = await client.post("/v1/feeds", json={"url": "https://example.org/new"})
    id = added.json()["id"]
    listed = (await client.get("/v1/feeds")).json()
    refreshed = await client.post(f"/v1/feeds/{id}/refresh")
    removed = await client.delete(f"/v1/feeds/{id}")
    assert [reply.status_code for reply in (added, refreshed, removed)] == [201, 202, 204]
    assert [(item["origin"], item["num_articles"]) for item in listed["data"]] == [("config", {"done": 3, "failed": 1}), ("api", {})]
    assert refreshed.json()["url"] == "https://example.org/new"
    assert removed.content == b""
    assert list(services.all_feeds) == ["feed0"]


async def test_a_feed_has_a_title_and_options_of_its_own() -> None:
    services = FakeServices(all_feeds={"feed0": feed(origin="api")})
    client = client_of(services)
    added = await client.post("/v1/feeds", json={"url": "https://example.org/new", "options": {"title": "Own", "full_text": True}})
    assert (added.status_code, added.json()["title"], added.json()["options"]) == (201, "Own", {"title": "Own", "full_text": True})
    assert (await client.patch("/v1/feeds/feed0", json={"options": {"full_text": None}})).status_code == 200
    assert (await client.patch("/v1/feeds/feed0", json={"options": {"title": "Other"}})).status_code == 200
    assert services.changed == [("feed0", {"full_text": None}), ("feed0", {"title": "Other"})]


@pytest.mark.parametrize(("options", "is_told"), [({"full_text": True}, True), ({"full_text": False}, False), ({}, False)])
async def test_a_feed_that_wants_pages_where_none_can_be_read_says_what_to_install(
    options: dict[str, Any], is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(FakeServices(all_feeds={"feed0": feed(options=options)}))
    assert (await client.get("/v1/feeds")).json()["data"][0]["note"] is None
    monkeypatch.setattr("serve_app.feeds.extract.MODULES", ("no_such_module_anywhere",))
    assert (await client.get("/v1/feeds")).json()["data"][0]["note"] == (MISSING if is_told else None)
    assert (MISSING in html.unescape((await client.get("/")).text)) == is_told


async def test_any_feed_is_paused_and_goes_on() -> None:
    services = FakeServices(all_feeds={"feed0": feed()})
    client = client_of(services)
    paused = await client.patch("/v1/feeds/feed0", json={"paused": True})
    assert (paused.status_code, paused.json()["state"], paused.json()["paused_by"]) == (200, "paused", "person")
    resumed = await client.patch("/v1/feeds/feed0", json={"paused": False})
    assert (resumed.json()["state"], resumed.json()["paused_by"]) == ("ok", None)
    refused = await client.patch("/v1/feeds/feed0", json={"paused": "yes"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "paused")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"full_text": "yes"}, "options.full_text"),
        ({"fulltext": True}, "full_text"),
        ({"keep": ["title=ok", "title=("]}, "options.keep[1]: rule 'title=('"),
        ({"block": ["headline=x"]}, "write one of any, title, text, link, author, tag"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_bad_options_are_refused_by_name(method: str, options: dict[str, Any], problem: str) -> None:
    services = FakeServices(all_feeds={"feed0": feed(origin="api")})
    path, body = ("/v1/feeds", {"url": "https://example.org/new"}) if method == "POST" else ("/v1/feeds/feed0", {})
    reply = await client_of(services).request(method, path, json={**body, "options": options})
    assert reply.status_code == 400
    assert problem in reply.json()["error"]["message"]


async def test_no_reply_shows_the_password_of_a_feeds_address() -> None:
    client = client_of(FakeServices())
    added = await client.post("/v1/feeds", json={"url": "https://ann:secret@example.org/feed"})
    listed = await client.get("/v1/feeds")
    refused = await client.post("/v1/feeds", json={"url": "ftp://ann:secret@example.org/feed"})
    assert (added.json()["url"], refused.status_code) == ("https://***@example.org/feed", 400)
    for reply in (added, listed, refused):
        assert "***@" in reply.text
        assert "secret" not in reply.text


async def test_a_feed_of_the_configuration_stays() -> None:
    reply = await client_of(FakeServices(all_feeds={"feed0": feed()})).delete("/v1/feeds/feed0")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/feeds/nope"),
        ("POST", "/v1/feeds/nope/refresh"),
        ("GET", "/v1/articles/nope"),
        ("POST", "/v1/articles/nope/retry"),
    ],
)
async def test_what_is_not_there_is_a_404(method: str, path: str) -> None:
    reply = await client_of(FakeServices()).request(method, path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("url", ["", "ftp://example.org/feed", "file:///etc/passwd", "example.org", "https://", "x" * 3000, 5])
async def test_an_address_that_no_feed_has_is_refused(url: Any) -> None:
    services = FakeServices()
    reply = await client_of(services).post("/v1/feeds", json={"url": url})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "url")
    assert services.all_feeds == {}


async def test_a_feed_that_is_there_already_is_a_conflict() -> None:
    services = FakeServices(all_feeds={"feed0": feed()})
    reply = await client_of(services).post("/v1/feeds", json={"url": "https://example.org/feed.xml"})
    assert reply.status_code == 409
