"""POST /v1/articles/rerun: a preview unless it says otherwise, and what it leaves out by mistake."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.messages_feeds import Rerun
from tests.fast.fakes_api import FakeServices
from tests.fast.fakes_http import client_of


async def test_without_a_word_it_is_a_preview_and_nothing_happens() -> None:
    services = FakeServices()
    reply = await client_of(services).post("/v1/articles/rerun", json={"feed": "feed0", "prompt_version_not": "2"})
    assert services.reruns == [(Rerun("feed0", prompt_version_not="2"), True)]
    expected = {"prompt_tokens": 900, "completion_tokens": 300, "compute_s": 12.5, "cost_usd": 0.0002}
    assert reply.json() == {"object": "rerun", "dry_run": True, "num_articles": 3, "num_calls": 5, "num_same": 1, "expected": expected}


async def test_all_that_is_given_reaches_the_graph() -> None:
    services = FakeServices()
    given = {"feed": "f", "tag": "t", "ids": ["a", "b"], "state": "failed", "model_not": "m", "since": "2026-11-01", "dry_run": False}
    assert (await client_of(services).post("/v1/articles/rerun", json=given)).status_code == 200
    assert services.reruns == [(Rerun("f", "t", ("a", "b"), "failed", None, "m", 1793491200.0), False)]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"state": "pending"}, "state"),
    ({"ids": []}, "ids"),
    ({"dryrun": False}, "did you mean dry_run?"),
    ({"since": "soon"}, "not a time"),
]


@pytest.mark.parametrize(("given", "words"), MISTAKES)
async def test_a_mistake_is_named_and_nothing_happens(given: dict[str, Any], words: str) -> None:
    services = FakeServices()
    reply = await client_of(services).post("/v1/articles/rerun", json=given)
    assert (reply.status_code, services.reruns) == (400, [])
    assert words in reply.json()["error"]["message"]
