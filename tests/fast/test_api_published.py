"""/feed.rss, /feed.atom and /feed.json over HTTP: what is in them, filters, and readers that ask again."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest

from serve_app.errors import Unavailable
from serve_app.feeds.parse import parse
from serve_app.messages_feeds import ArticleQuery
from serve_app.settings import IngressSettings
from tests.fast.fakes_api import FakeServices, article, feed, summary
from tests.fast.fakes_http import client_of

PATHS = {"/feed.rss": "application/rss+xml", "/feed.atom": "application/atom+xml", "/feed.json": "application/feed+json"}
each_path = pytest.mark.parametrize("path", PATHS)


def services(**changes: Any) -> FakeServices:
    return FakeServices(all_articles=[article("a0"), article("a1")], all_feeds={"feed0": feed()}, **changes)


@each_path
async def test_the_summarised_articles_are_there_with_their_type(path: str) -> None:
    known = services()
    reply = await client_of(known).get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (200, f"{PATHS[path]}; charset=utf-8")
    assert [entry.title for entry in parse(reply.content, "http://h/", PATHS[path]).entries] == ["Title a0", "Title a1"]
    assert known.queried == [ArticleQuery(state="done", limit=50)]


@each_path
async def test_filters_reach_the_graph_and_stand_in_title_and_addresses(path: str) -> None:
    known = services(settings=IngressSettings(public_url="https://reader.example/frugal/"))
    reply = await client_of(known).get(path, params={"feed": "feed0", "text": "fish & chips", "tag": "food", "limit": 7})
    assert known.queried == [ArticleQuery("feed0", "done", "fish & chips", limit=7, tag="food")]
    assert parse(reply.content, "http://h/", None).title == "Frugal Serve · Example · food · fish & chips"
    asked = "feed=feed0&tag=food&text=fish+%26+chips"
    text = reply.text.replace("&amp;", "&")
    assert f"https://reader.example/frugal{path}?{asked}&limit=7" in text
    assert f"https://reader.example/frugal/?{asked}" in text


async def test_without_a_setting_the_addresses_are_those_that_the_reader_used() -> None:
    document = json.loads((await client_of(services()).get("/feed.json", headers={"host": "box.lan:8000"})).text)
    assert (document["home_page_url"], document["feed_url"]) == ("http://box.lan:8000/", "http://box.lan:8000/feed.json")


@each_path
@pytest.mark.parametrize(
    ("params", "status", "words"),
    [({"feed": "nope"}, 404, "there is no feed"), ({"limit": "201"}, 400, "from 1 to 200"), ({"fed": "x"}, 400, "did you mean feed?")],
)
async def test_a_wrong_filter_is_named(path: str, params: dict[str, str], status: int, words: str) -> None:
    reply = await client_of(services()).get(path, params=params)
    assert reply.status_code == status
    assert words in reply.json()["error"]["message"]


@each_path
async def test_a_reader_that_asks_again_gets_a_304_until_a_summary_is_new(path: str) -> None:
    known = services()
    client = client_of(known)
    first = await client.get(path)
    tag, date = first.headers["etag"], first.headers["last-modified"]
    assert date == "Tue, 14 Nov 2023 22:18:20 GMT"
    for asked in ({"if-none-match": tag}, {"if-none-match": f'"other", W/{tag}'}, {"if-modified-since": date}, {"if-none-match": "*"}):
        again = await client.get(path, headers=asked)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    known.all_articles[0] = article("a0", summary=dataclasses.replace(summary("Anew."), created_at=1_700_000_400.0))
    for asked in ({"if-none-match": tag}, {"if-modified-since": date}, {"if-none-match": tag, "if-modified-since": "bad"}):
        assert (await client.get(path, headers=asked)).status_code == 200


@each_path
async def test_the_tag_goes_before_the_date_and_only_a_date_of_ours_counts(path: str) -> None:
    client = client_of(services())
    date = (await client.get(path)).headers["last-modified"]
    later = "Tue, 14 Nov 2023 22:18:21 GMT"
    for asked in (
        {"if-none-match": '"other"', "if-modified-since": date},
        {"if-modified-since": "yesterday"},
        {"if-modified-since": later},
    ):
        assert (await client.get(path, headers=asked)).status_code == 200


@each_path
async def test_while_summaries_are_being_stored_there_is_no_date_because_the_next_may_bear_the_same(path: str) -> None:
    known = services()
    known.all_articles[0] = article("a0", summary=dataclasses.replace(summary(), created_at=time.time()))
    reply = await client_of(known).get(path)
    assert "last-modified" not in reply.headers
    assert (await client_of(known).get(path, headers={"if-none-match": reply.headers["etag"]})).status_code == 304


@each_path
async def test_head_says_the_same_without_a_body(path: str) -> None:
    client = client_of(services())
    reply, whole = await client.head(path), await client.get(path)
    assert (reply.status_code, reply.content, reply.headers["etag"]) == (200, b"", whole.headers["etag"])


@each_path
async def test_without_the_database_it_is_a_503_that_says_so(path: str) -> None:
    reply = await client_of(services(broken={"articles": Unavailable("the database is away")})).get(path)
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "the database is away")


@pytest.mark.parametrize(
    ("asked", "published"),
    [
        ("/", ""),
        ("/docs", ""),
        ("/?state=failed&limit=5", ""),
        ("/?feed=feed0&text=a%22%26b&state=done", "?feed=feed0&amp;text=a%22%26b"),
        ("/?tag=c%2B%2B", "?tag=c%2B%2B"),
    ],
)
async def test_a_pages_links_lead_to_the_feeds_of_what_it_shows(asked: str, published: str) -> None:
    page = (await client_of(services()).get(asked)).text
    for path, kind in PATHS.items():
        assert f'<link rel="alternate" type="{kind}"' in page
        assert page.count(f'href="{path}{published}"') == 2, "in the head and at the foot"


async def test_a_forwarded_host_is_not_believed() -> None:
    reply = await client_of(services()).get("/feed.json", headers={"x-forwarded-host": "evil.example", "x-forwarded-proto": "https"})
    assert reply.json()["feed_url"] == "http://127.0.0.1:8000/feed.json"


@pytest.mark.parametrize("url", ["reader.example", "ftp://reader.example", "https://reader.example/?x", "https://ann@reader.example"])
def test_an_address_that_no_reader_could_use_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"write https://host\[:port\]\[/prefix\]"):
        IngressSettings(public_url=url)
