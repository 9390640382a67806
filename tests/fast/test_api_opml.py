"""OPML over HTTP: what became of each entry, and who may see which address."""

from __future__ import annotations

import hashlib

import pytest

from serve_app.errors import BadRequest, Unavailable
from tests.fast.fakes_api import FakeServices, feed
from tests.fast.fakes_http import client_of
from tests.fast.test_feeds_opml import opml

HEADERS = {"content-type": "text/x-opml"}
FILE = opml(
    '<outline text="Tech"><outline text="A" xmlUrl="https://a.example/feed"/><outline text="A" xmlUrl="https://a.example/feed"/></outline>',
    '<outline text="There" xmlUrl="https://example.org/feed.xml"/><outline text="Bad" xmlUrl="ftp://ann:secret@b.example/"/>',
    '<outline text="C" xmlUrl="https://c.example/feed"/>',
)


async def test_a_file_is_imported_entry_by_entry_and_again_without_harm() -> None:
    services = FakeServices(all_feeds={"feed": feed()})
    client = client_of(services)
    told = (await client.post("/v1/feeds/import", content=FILE, headers=HEADERS)).json()
    results = ["added", "already there", "already there", "refused", "added"]
    assert ([entry["result"] for entry in told["entries"]], told["added"], told["already_there"], told["refused"]) == (results, 2, 2, 1)
    assert told["entries"][0] == {"url": "https://a.example/feed", "title": "A", "category": "Tech", "result": "added", "reason": None}
    assert "unknown scheme 'ftp'" in told["entries"][3]["reason"]
    assert "secret" not in str(told)
    assert services.all_feeds["feed1"].options == {"title": "A"}
    again = (await client.post("/v1/feeds/import", content=FILE, headers=HEADERS)).json()
    assert (again["added"], again["already_there"], again["refused"]) == (0, 4, 1)


@pytest.mark.parametrize("kind", ["text/xml; charset=utf-8", "application/xml", "text/x-opml", "application/octet-stream"])
async def test_every_usual_content_type_is_taken(kind: str) -> None:
    reply = await client_of(FakeServices()).post("/v1/feeds/import", content=FILE, headers={"content-type": kind})
    assert (reply.status_code, reply.json()["added"]) == (200, 3)


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}, {"content-type": "application/x-www-form-urlencoded"}])
async def test_another_content_type_is_refused_with_the_remedy(headers: dict[str, str]) -> None:
    reply = await client_of(FakeServices()).post("/v1/feeds/import", content=FILE, headers=headers)
    assert reply.status_code == 400
    assert "send OPML with Content-Type: text/x-opml" in reply.json()["error"]["message"]


async def test_a_file_over_the_limit_and_one_that_is_no_opml_are_refused() -> None:
    client = client_of(FakeServices())
    assert (await client.post("/v1/feeds/import", content=b"x" * 2_000_000, headers=HEADERS)).status_code == 413
    assert (await client.post("/v1/feeds/import", content=b"x", headers=HEADERS)).status_code == 400


async def test_a_graph_that_is_not_there_is_an_error_and_no_refused_entry() -> None:
    class Broken(FakeServices):
        async def add_feed(self, url: str, options: dict[str, object]) -> object:  # type: ignore[override]
            raise Unavailable("Feeds is not available at this moment") if url.startswith("https://c") else BadRequest("no such feed")

    reply = await client_of(Broken()).post("/v1/feeds/import", content=FILE, headers=HEADERS)
    assert reply.status_code == 503


async def test_an_export_is_a_file_without_passwords_unless_the_administrator_asks() -> None:
    secret = feed("feed1", url="https://ann:hunter2@example.org/private")
    services = FakeServices(all_feeds={"feed0": feed(), "feed1": secret}, key_sha256=hashlib.sha256(b"the key").hexdigest())
    client = client_of(services)
    plain = await client.get("/v1/feeds/export.opml")
    assert (plain.status_code, plain.headers["content-type"].split(";")[0], plain.headers["x-left-out"]) == (200, "text/x-opml", "1")
    assert ("hunter2" in plain.text, "https://example.org/feed.xml" in plain.text) == (False, True)
    assert (await client.get("/v1/feeds/export.opml?passwords=true")).status_code == 401
    whole = await client.get("/v1/feeds/export.opml?passwords=true", headers={"authorization": "Bearer the key"})
    assert ("ann:hunter2@example.org" in whole.text, whole.headers["x-left-out"]) == (True, "0")
    restored = FakeServices()
    await client_of(restored).post("/v1/feeds/import", content=whole.content, headers=HEADERS)
    assert [known.url for known in restored.all_feeds.values()] == [known.url for known in services.all_feeds.values()]
