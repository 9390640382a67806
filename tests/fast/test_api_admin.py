"""The administrator's routes over a real store: who may, what is shown, what is deleted, and what is carried elsewhere and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from serve_app.admin_key import sha256_of
from serve_app.api import admin
from serve_app.cache.stored import StoredAnswers
from serve_app.errors import Overloaded, Unavailable
from serve_app.messages import Answer, Ask, Selection
from serve_app.store.answer_lines import to_line
from serve_app.store.answers import AnswerStore, StoredAnswer
from serve_app.store.database import Database
from tests.contract_store.answers import stored
from tests.fast.fakes_api import KEY, MODEL, FakeServices
from tests.fast.fakes_http import chat_body, client_of

ADMIN = "frugal-admin-key-of-this-test"
ROOT = "/v1/admin/cache"


def mine(number: int, **changes: object) -> StoredAnswer:
    """An answer of the model that is served."""
    return replace(stored(number, created_at=1000.0 + number, model=MODEL), **changes)  # type: ignore[arg-type]


class World:
    """The routes over a store, and what was told to be forgotten."""

    def __init__(self, database: Database) -> None:
        self.store = AnswerStore(database)
        self.forgotten: list[Selection] = []
        self.told: Exception | None = None
        self.services = FakeServices(the_stored=StoredAnswers(self.store, self._forget), key_sha256=sha256_of(ADMIN))
        self.client = client_of(self.services, headers={"authorization": f"Bearer {ADMIN}"})

    async def _forget(self, selection: Selection) -> int:
        if self.told:
            raise self.told
        self.forgotten.append(selection)
        return 3

    async def get(self, path: str, **params: Any) -> Any:
        reply = await self.client.get(f"{ROOT}{path}", params=params)
        assert reply.status_code == 200, reply.text
        return reply.json()


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    world = World(database)
    for number, (feed_id, model) in enumerate([("x", MODEL), ("y", MODEL), ("", MODEL), ("x", "other")]):
        world.store.put(mine(number, feed_id=feed_id, model=model))
    async with world.client:
        yield world


ROUTES = [
    ("GET", ""),
    ("GET", "/entries"),
    ("GET", f"/entries/{KEY}"),
    ("DELETE", "/entries?all=true"),
    ("GET", "/export"),
    ("POST", "/import"),
    ("POST", "/warm"),
]


@pytest.mark.parametrize("header", ["", "Bearer wrong", f"Basic {ADMIN}", f"Bearer {sha256_of(ADMIN)}", "Bearer caf\xe9"])
async def test_without_the_key_nothing_is_shown_or_done(world: World, header: str) -> None:
    client = client_of(world.services, headers={"authorization": header.encode("latin-1")} if header else {})
    for method, path in ROUTES:
        reply = await client.request(method, ROOT + path)
        assert (reply.status_code, reply.headers["www-authenticate"], reply.json()["error"]["code"]) == (401, "Bearer", "invalid_api_key")
    assert world.store.totals().entries == 4


async def test_where_no_key_is_set_up_the_remedy_is_told(world: World) -> None:
    world.services.key_sha256 = None
    for method, path in ROUTES:
        reply = await world.client.request(method, ROOT + path)
        assert (reply.status_code, "frugal-serve admin-key new" in reply.json()["error"]["message"]) == (403, True)
    assert world.store.totals().entries == 4


def test_every_route_of_the_administrator_is_among_those() -> None:
    paths = {(method, route.path) for route in admin.router.routes if isinstance(route, APIRoute) for method in route.methods or ()}
    assert paths == {(method, ROOT + path.partition("?")[0].replace(KEY, "{key}")) for method, path in ROUTES}


async def test_totals_add_up_by_model_and_feed(world: World) -> None:
    totals = await world.get("")
    assert (totals["entries"], totals["size_bytes"]) == (4, world.store.totals().size_bytes)
    assert sorted((group["model"], group["feed_id"], group["entries"]) for group in totals["groups"]) == [
        ("other", "x", 1),
        (MODEL, "", 1),
        (MODEL, "x", 1),
        (MODEL, "y", 1),
    ]


async def test_a_list_is_filtered_and_its_pages_join_up(world: World) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        page = await world.get("/entries", limit=2, cursor=cursor)
        seen += [entry["key"] for entry in page["data"]]
        if not page["has_more"]:
            break
        cursor = page["next_cursor"]
    assert seen == [mine(number).key for number in (3, 2, 1, 0)]
    assert [entry["key"] for entry in (await world.get("/entries", feed="x", model=MODEL))["data"]] == [mine(0).key]
    assert (await world.get("/entries", older_than_s=1e9))["data"] == (await world.get("/entries"))["data"]


async def test_an_entry_is_shown_with_its_text(world: World) -> None:
    entry = await world.get(f"/entries/{mine(0).key}")
    assert (entry["text"], entry["scope"], entry["feed_id"], entry["created_at"], entry["ttl_s"]) == (
        "two words",
        "tenant",
        "x",
        1000.0,
        None,
    )
    assert (entry["finish_reason"], entry["prompt_tokens"], entry["completion_tokens"], entry["hits"]) == ("length", 5, 2, 0)
    missing = await world.client.get(f"{ROOT}/entries/{'f' * 64}")
    assert (missing.status_code, "x-cache-key" in missing.json()["error"]["message"]) == (404, True)


@pytest.mark.parametrize(
    ("params", "selection", "left"),
    [
        ({"key": mine(1).key}, Selection(key=mine(1).key), [0, 2, 3]),
        ({"model": MODEL}, Selection(model=MODEL), [3]),
        ({"feed": "x"}, Selection(feed_id="x"), [1, 2]),
        ({"feed": "x", "model": MODEL}, Selection(model=MODEL, feed_id="x"), [1, 2, 3]),
        ({"all": "true"}, Selection(), []),
    ],
)
async def test_what_is_deleted_is_gone_and_told_to_everybody(
    world: World, params: dict[str, str], selection: Selection, left: list[int]
) -> None:
    reply = await world.client.delete(f"{ROOT}/entries", params=params)
    assert (reply.status_code, reply.json()) == (200, {"deleted": 4 - len(left), "replicas_told": 3})
    assert world.forgotten == [selection]
    assert [number for number in range(4) if world.store.get(mine(number).key)] == left


async def test_deleting_by_age_takes_what_is_older(world: World) -> None:
    world.store.put(mine(9, created_at=2e9))
    assert (await world.client.delete(f"{ROOT}/entries", params={"older_than_s": 60})).json()["deleted"] == 4
    assert world.store.get(mine(9).key) is not None


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "all=true"),
        ({"all": "true", "feed": "x"}, "it goes with no condition"),
        ({"key": "short"}, "64 hex digits"),
        ({"older_than_s": "-1"}, "seconds"),
        ({"modle": "x"}, "did you mean model?"),
    ],
)
async def test_a_deletion_that_does_not_say_what_is_refused(world: World, params: dict[str, str], words: str) -> None:
    reply = await world.client.delete(f"{ROOT}/entries", params=params)
    assert (reply.status_code, words in reply.json()["error"]["message"]) == (400, True), reply.text
    assert world.store.totals().entries == 4


async def test_a_deletion_that_not_everybody_heard_of_says_so(world: World) -> None:
    world.told = Unavailable("a replica has not heard it; send it again", retry_after_s=2)
    reply = await world.client.delete(f"{ROOT}/entries", params={"all": "true"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")


async def test_a_store_that_is_down_is_a_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_words: object) -> None:
        raise OSError("disk on fire")

    for name in ("get", "page", "groups", "delete"):
        monkeypatch.setattr(world.store, name, down)
    for method, path in [route for route in ROUTES if route[0] != "POST"]:
        reply = await world.client.request(method, ROOT + path)
        assert (reply.status_code, "on fire" in reply.text) == (503, False)


async def test_what_is_exported_can_be_imported_where_it_is_missing_or_older(world: World) -> None:
    exported = (await world.client.get(f"{ROOT}/export", params={"model": MODEL})).content
    assert exported.decode().splitlines() == [to_line(mine(number, feed_id=feed)) for number, feed in ((2, ""), (1, "y"), (0, "x"))]
    world.store.delete(Selection(key=mine(0).key))
    newer, older = mine(1, text="newer", created_at=5000.0), mine(2, text="older", created_at=1.0)
    world.store.put(newer)
    world.store.put(older)
    reply = await world.client.post(f"{ROOT}/import", content=exported)
    assert reply.json() == {"stored": 2, "not_newer": 1, "refused": 0, "errors": []}
    assert [world.store.get(mine(number).key) for number in range(3)] == [mine(0, feed_id="x"), newer, mine(2, feed_id="")]
    assert world.forgotten == [Selection()], "somebody may hold what was replaced in memory"


async def test_damaged_and_foreign_lines_are_refused_one_by_one(world: World) -> None:
    good = to_line(mine(7))
    lines = [good.replace("two words", "ten words"), "", good, "no JSON", to_line(mine(8, model="gone"))]
    reply = await world.client.post(f"{ROOT}/import", content="\n".join(lines))
    assert reply.json() == {
        "stored": 1,
        "not_newer": 0,
        "refused": 3,
        "errors": [
            {"line": 1, "error": "its digest does not match: it was damaged or changed"},
            {"line": 4, "error": "not a line of JSON"},
            {"line": 5, "error": "its model 'gone' is not served here"},
        ],
    }
    assert world.store.get(mine(7).key) == mine(7)


class Model(FakeServices):
    """Answers that the test lets go one by one; `most` counts how many were asked for at once."""

    running, most = 0, 0

    async def answer(self, ask: Ask) -> Answer:
        type(self).running += 1
        type(self).most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if any("refuse" in message.content for message in ask.generate.messages):
                raise Overloaded("256 requests wait", retry_after_s=3)
            return await super().answer(ask)
        finally:
            type(self).running -= 1


async def test_warming_asks_each_line_at_batch_priority_a_few_at_a_time_and_tells_of_each(world: World) -> None:
    services = Model(key_sha256=sha256_of(ADMIN))
    good = [json.dumps(chat_body(messages=[{"role": "user", "content": f"Question {number}"}])) for number in range(20)]
    bad = [
        "no JSON",
        '{"model": 5}',
        json.dumps(chat_body(model="gone")),
        json.dumps(chat_body(messages=[{"role": "user", "content": "refuse"}])),
    ]
    text = json.dumps({"model": MODEL, "prompt": "Once"})
    async with client_of(services, headers={"authorization": f"Bearer {ADMIN}"}) as client:
        reply = await client.post(f"{ROOT}/warm", params={"concurrency": 3}, content="\n".join([*good, *bad, text]))
    results = {result["line"]: result for result in map(json.loads, reply.text.splitlines())}
    assert (reply.status_code, reply.headers["content-type"], sorted(results)) == (200, "application/x-ndjson", list(range(1, 26)))
    assert results[1] == {"line": 1, "cache": "miss", "key": KEY, "compute_s": 0.5}
    assert [results[number]["error"]["code"] for number in (21, 22, 23, 24)] == [
        "invalid_value",
        "invalid_value",
        "model_not_found",
        "overloaded",
    ]
    assert "cache" in results[25]
    assert (services.most, {ask.generate.priority for ask in services.asked}, len(services.asked)) == (3, {"batch"}, 21)
    assert services.asked[-1].generate.prompt == "Once"


async def test_warming_stops_when_the_client_leaves(world: World) -> None:
    services = FakeServices(key_sha256=sha256_of(ADMIN))
    services.will_hang()
    lines = "\n".join(json.dumps(chat_body()) for _ in range(9))
    sender = asyncio.create_task(
        client_of(services, headers={"authorization": f"Bearer {ADMIN}"}).post(f"{ROOT}/warm", content=lines, params={"concurrency": 2})
    )
    await services.waiting.wait()
    sender.cancel()
    with pytest.raises((asyncio.CancelledError, httpx.HTTPError)):
        await sender
    await services.closed.wait()
    assert len(services.asked) == 2


async def test_nothing_to_import_or_to_warm_is_refused(world: World) -> None:
    for path in ("/import", "/warm"):
        assert (await world.client.post(ROOT + path, content="\n")).status_code == 400


async def test_an_answer_that_came_meanwhile_is_shown_as_it_is_now(world: World) -> None:
    await world.get(f"/entries/{mine(0).key}")
    world.store.put(replace(mine(0), text="fresh", ttl_s=5.0))
    entry = await world.get(f"/entries/{mine(0).key}")
    assert (entry["text"], entry["ttl_s"]) == ("fresh", 5.0)
