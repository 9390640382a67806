"""Daily digests as JSON: each with what it was made from and what it took, in pages."""

from __future__ import annotations

import pytest

from serve_app.errors import BadRequest
from tests.fast.fakes_api import MODEL, FakeServices, digest
from tests.fast.fakes_http import client_of


async def test_a_digest_says_what_it_was_made_from_and_what_it_took() -> None:
    reply = await client_of(FakeServices(all_digests=[digest()])).get("/v1/digests")
    assert (reply.status_code, reply.json()) == (
        200,
        {
            "object": "list",
            "data": [
                {
                    "object": "digest",
                    "date": "2026-11-25",
                    "tag": "*",
                    "state": "done",
                    "text": "What a day.",
                    "article_ids": ["a0"],
                    "reason": None,
                    "attempts": 0,
                    "next_try_at": None,
                    "model": MODEL,
                    "prompt_tokens": 90,
                    "completion_tokens": 30,
                    "compute_s": 2.5,
                    "cost_usd": 0.001,
                    "updated_at": 1_795_590_000.0,
                }
            ],
            "has_more": False,
            "next_cursor": None,
        },
    )


async def test_pages_of_one_tag_join_up() -> None:
    services = FakeServices(all_digests=[digest(tag, date=f"2026-11-{day}") for day in (25, 24, 23) for tag in ("*", "ai")])
    client = client_of(services)
    seen: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await client.get("/v1/digests", params={"tag": "ai", "limit": 2, "cursor": cursor})).json()
        assert page["has_more"] == (page["next_cursor"] is not None)
        seen += [(item["date"], item["tag"]) for item in page["data"]]
        cursor = page["next_cursor"]
    assert seen == [("2026-11-25", "ai"), ("2026-11-24", "ai"), ("2026-11-23", "ai")]


@pytest.mark.parametrize(
    ("params", "param", "words"),
    [
        ({"limit": "0"}, "limit", "from 1 to 100"),
        ({"tag": "x" * 101}, "tag", "digest.tags"),
        ({"tags": "ai"}, "tags", "did you mean tag?"),
    ],
)
async def test_a_wrong_filter_is_named(params: dict[str, str], param: str, words: str) -> None:
    reply = await client_of(FakeServices()).get("/v1/digests", params=params)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert words in reply.json()["error"]["message"]


async def test_a_foreign_cursor_is_refused() -> None:
    services = FakeServices()
    services.break_part("digests", BadRequest("cursor is not one that this server gave out", param="cursor"))
    reply = await client_of(services).get("/v1/digests", params={"cursor": "x"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "cursor")


async def test_a_failed_digest_is_asked_for_again_and_others_say_why_not() -> None:
    failed = digest("ai", state="failed", text="", reason="it looped", attempts=3)
    client = client_of(FakeServices(all_digests=[digest(), failed]))
    again = await client.post("/v1/digests/2026-11-25/retry", params={"tag": "ai"})
    assert again.status_code == 202
    assert {name: again.json()[name] for name in ("tag", "state", "reason", "attempts")} == {
        "tag": "ai",
        "state": "pending",
        "reason": None,
        "attempts": 3,
    }
    done, missing = [await client.post(f"/v1/digests/2026-11-{day}/retry") for day in ("25", "01")]
    assert (done.status_code, done.json()["error"]["message"]) == (409, "this digest is done")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "there is no digest of 2026-11-01 for *")
    assert (await client.post("/v1/digests/2026-11-25/retry", params={"tga": "ai"})).status_code == 400
