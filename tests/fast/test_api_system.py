"""What other programs ask: models, health, readiness, metrics, report."""

from __future__ import annotations

from dataclasses import replace

from serve_app.errors import Unavailable
from tests.fast.fakes_api import CARD, MODEL, FakeServices
from tests.fast.fakes_http import client_of


async def test_models_say_what_is_loaded() -> None:
    reply = await client_of(FakeServices()).get("/v1/models")
    page = reply.json()
    assert {key: page[key] for key in ("object", "has_more", "next_cursor")} == {"object": "list", "has_more": False, "next_cursor": None}
    model = page["data"][0]
    assert (model["id"], model["object"], model["loaded"], model["max_model_len"], model["quantization"]) == (
        MODEL,
        "model",
        True,
        128,
        "nf4",
    )


async def test_models_say_which_sampling_fields_their_engine_serves() -> None:
    loaded = (replace(CARD, sampling_fields=("seed", "stop")),)
    listed = (await client_of(FakeServices(loaded=loaded)).get("/v1/models")).json()["data"]
    assert listed[0]["sampling_fields"] == ["seed", "stop"]
    assert (await client_of(FakeServices(loaded=())).get("/v1/models")).json()["data"][0]["sampling_fields"] == []


async def test_a_model_that_still_loads_is_listed_and_says_so() -> None:
    client = client_of(FakeServices(loaded=()))
    listed = (await client.get("/v1/models")).json()["data"]
    one = (await client.get(f"/v1/models/{MODEL}")).json()
    assert listed == [one]
    assert (one["loaded"], one["max_model_len"]) == (False, None)


async def test_health_is_200_whatever_the_rest_does() -> None:
    services = FakeServices()
    for part in ("cards", "ready", "feeds", "report"):
        services.break_part(part, RuntimeError("gone"))
    reply = await client_of(services).get("/health")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})


async def test_ready_is_200_or_503_with_what_is_missing() -> None:
    services = FakeServices()
    client = client_of(services)
    before = await client.get("/ready")
    services.state = {"ready": False, "waiting_for": ["the model is loading"], "errors": []}
    after = await client.get("/ready")
    assert (before.status_code, after.status_code) == (200, 503)
    assert after.json() == services.state


async def test_a_part_that_does_not_answer_is_not_ready() -> None:
    services = FakeServices()
    services.break_part("ready", Unavailable("the feeds are starting"))
    reply = await client_of(services).get("/ready")
    assert (reply.status_code, reply.json()["errors"]) == (503, ["the feeds are starting"])


async def test_metrics_are_prometheus_text() -> None:
    reply = await client_of(FakeServices()).get("/metrics")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "frugal_up 1\n" in reply.text


async def test_metrics_never_fail() -> None:
    services = FakeServices()
    services.break_part("metrics", RuntimeError("no replicas"))
    reply = await client_of(services).get("/metrics")
    assert (reply.status_code, reply.text.startswith("# ")) == (200, True)


async def test_the_report_is_sent_as_it_is() -> None:
    services = FakeServices(the_report={"requests": {"total": 3}, "anything": [1, None, "x"]})
    assert (await client_of(services).get("/v1/report")).json() == services.the_report
