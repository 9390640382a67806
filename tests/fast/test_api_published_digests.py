"""/digest.rss, /digest.atom and /digest.json: an entry per day and tag, each always under the same id."""

from __future__ import annotations

import dataclasses
import json

import feedparser
import pytest

from serve_app.api import syndicate
from serve_app.feeds.parse import parse
from serve_app.settings import IngressSettings
from tests.fast.fakes_api import MODEL, FakeServices, digest
from tests.fast.fakes_http import client_of

PATHS = {"/digest.rss": syndicate.RSS, "/digest.atom": syndicate.ATOM_TYPE, "/digest.json": syndicate.JSON_TYPE}
each_path = pytest.mark.parametrize("path", PATHS)
NASTY = "Fish & <b>chips</b> ]]> 🐟"


def services(**changes: object) -> FakeServices:
    failed = digest("law", state="failed", text="", reason="out of memory")
    older = digest("ai", date="2026-11-24", text="Before that.", updated_at=1_795_503_600.0)
    return FakeServices(
        all_digests=[digest(), digest("ai", text=NASTY), failed, older], settings=IngressSettings(public_url="https://h.test/f/")
    )


@each_path
async def test_every_digest_that_was_written_is_an_entry(path: str) -> None:
    reply = await client_of(services()).get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (200, f"{PATHS[path]}; charset=utf-8")
    found = parse(reply.content, f"https://h.test{path}", PATHS[path])
    assert (found.title, found.num_left_out) == ("Frugal Serve · daily digest", 0)
    assert [(entry.title, entry.text, entry.link) for entry in found.entries] == [
        ("All articles, 2026-11-25", "What a day.", "https://h.test/f/"),
        ("ai, 2026-11-25", NASTY, "https://h.test/f/"),
        ("ai, 2026-11-24", "Before that.", "https://h.test/f/"),
    ]
    assert [entry.published_at for entry in found.entries] == [1_795_590_000.0, 1_795_590_000.0, 1_795_503_600.0]
    assert all(entry.guid.startswith("urn:uuid:") for entry in found.entries)


@pytest.mark.parametrize("path", ["/digest.rss", "/digest.atom"])
async def test_feedparser_finds_nothing_ill_formed(path: str) -> None:
    document = feedparser.parse((await client_of(services()).get(path)).content)
    assert not document.bozo
    assert [[tag.term for tag in entry.get("tags", ())] for entry in document.entries] == [[], ["ai"], ["ai"]]


@each_path
async def test_ids_are_the_same_under_a_filter_and_after_the_text_changed(path: str) -> None:
    known = services()
    everything = parse((await client_of(known).get(path)).content, "https://h.test/", PATHS[path])
    known.all_digests = [dataclasses.replace(one, text="Other words.") for one in known.all_digests]
    reply = await client_of(known).get(path, params={"tag": "ai", "limit": 1})
    (entry,) = parse(reply.content, "https://h.test/", PATHS[path]).entries
    assert (entry.guid, entry.text) == (everything.entries[1].guid, "Other words.")
    assert f"https://h.test/f{path}?tag=ai&limit=1" in reply.text.replace("&amp;", "&")
    assert "daily digest · ai" in reply.text


@each_path
async def test_who_asks_again_gets_a_304_until_there_is_a_new_one(path: str) -> None:
    known = services()
    client = client_of(known)
    etag = (await client.get(path)).headers["etag"]
    assert (await client.get(path, headers={"if-none-match": etag})).status_code == 304
    known.all_digests.insert(0, digest(date="2026-11-26"))
    assert (await client.get(path, headers={"if-none-match": etag})).status_code == 200
    assert (await client.head(path)).headers["content-type"] == f"{PATHS[path]}; charset=utf-8"


async def test_the_json_says_what_each_took() -> None:
    (item, *_rest) = json.loads((await client_of(services()).get("/digest.json")).text)["items"]
    assert item["_frugal"] == {"model": MODEL, "compute_s": 2.5, "cost_usd": 0.001, "grounding": None}


@each_path
async def test_a_wrong_filter_is_named_and_no_digests_are_an_empty_feed(path: str) -> None:
    client = client_of(FakeServices())
    assert "did you mean tag?" in (await client.get(path, params={"tags": "x"})).json()["error"]["message"]
    assert (await client.get(path)).status_code == 200
