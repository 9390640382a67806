"""What the routes are told about the graph: ready or why not, the card once it is there, the report of this moment."""

from __future__ import annotations

import pathlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.api import graph_services
from serve_app.api.app import build_app
from serve_app.api.graph_services import GraphServices
from serve_app.errors import Conflict, NotFound, Overloaded, Stopping, Unavailable
from serve_app.live import Live
from serve_app.messages import Answer, Ask, Item, ModelCard, Opening, Selection
from serve_app.messages_feeds import ArticlePage, ArticleQuery, DailyQuery
from serve_app.metrics import METRICS, Metrics
from serve_app.settings import AppSettings, IngressSettings, ModelSettings
from serve_app.settings_webhooks import Webhook
from serve_app.store.articles import LEASE, ArticleStore
from serve_app.store.daily import DailyStore
from serve_app.store.database import Database
from serve_app.store.ledger import Ledger, LedgerRow, ReplicaRow
from serve_app.store.webhooks import WebhookStore
from tests.fast.fakes import ask, finish
from tests.fast.fakes_api import CARD, feed
from tests.fast.fakes_feeds import until

HEALTHY = dict.fromkeys(("AnswerCache", "Feeds", "Ingress", "Model"), ("HEALTHY", ""))
STARTING = {**HEALTHY, "Model": ("UPDATING", "replicas are starting")}


class FakeCalls:
    """The other deployments, as a test wants them: `load` the model, `say` settings errors, break a broadcast."""

    def __init__(self) -> None:
        self.status: dict[str, tuple[str, str]] = dict(HEALTHY)
        self.settings_errors: list[str | None] = []
        self.metrics = Metrics()
        self.broken: dict[str, Exception] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.num_card_calls = 0
        self.num_asked = 0
        self.replay_s = 0.0
        self._card: ModelCard | None = None

    def load(self, card: ModelCard = CARD) -> None:
        """From now on the model says who it is."""
        self._card = card

    async def card(self) -> ModelCard:
        self.num_card_calls += 1
        if self._card is None:
            raise Unavailable("the model is still loading")
        return self._card

    async def answer(self, ask: Ask) -> Answer:
        self.num_asked += 1
        return Answer(Opening("miss", "key", replay_s=self.replay_s), ask.generate.messages[-1].content, finish())

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        yield Opening("miss", "key")
        yield finish()

    async def feeds(self, method: str, *args: str) -> Any:
        self.asked.append((method, *args))
        if method in self.broken:
            raise self.broken[method]
        known = {"remove_feed": None, "redeliver": 2, "test_webhook": "msg_1"}
        return known[method] if method in known else feed(url=args[0])

    async def broadcast(self, method: str) -> list[Any]:
        self.asked.append((method,))
        if method in self.broken:
            raise self.broken[method]
        results: dict[str, list[Any]] = {
            "flush": [None],
            "settings_error": [None, *self.settings_errors],
            "snapshot": [self.metrics.snapshot("Model", "one")],
        }
        return results[method]

    async def forget(self, selection: Selection) -> int:
        self.asked.append(("forget", str(selection)))
        return 2

    async def deployments(self) -> dict[str, tuple[str, str]]:
        return self.status


class World:
    """A database, the calls, and the services over them."""

    def __init__(self, folder: pathlib.Path, database_url: str) -> None:
        app = AppSettings(data_dir=str(folder), database_url=database_url, model=ModelSettings(id="tiny"))
        self.calls = FakeCalls()
        self.settings = Live(IngressSettings, "Ingress.user_config")
        self.services = GraphServices(app, self.settings, self.calls)
        self.database = Database(app.database)
        self.ledger = Ledger(self.database)

    def replica(self, phase: str, id: str = "one", seen_s_ago: float = 0.0, started_s_ago: float = 60.0, stopped: bool = False) -> None:
        """Write a Model replica's books."""
        now = time.time()
        seen, started = now - seen_s_ago, now - started_s_ago
        self.ledger.put_replica(
            ReplicaRow(id, "tiny", "host", phase, started, seen, seen if stopped else None, 1.0, 2.0, 3.0, 0.0, 0.05, 0.01, 0.02, 4, 5, 0)
        )

    async def learn_card(self) -> None:
        """Let the model be loaded, and wait until the services know it."""
        self.calls.load()
        self.services.start()
        await until(lambda: bool(self.services._cards))


@pytest.fixture
async def world(tmp_path: pathlib.Path, database_url: str) -> AsyncIterator[World]:
    world = World(tmp_path, database_url)
    yield world
    await world.services.stop()
    world.database.close()


async def test_before_anything_is_known_the_model_is_starting(world: World) -> None:
    assert await world.services.ready() == {"ready": False, "waiting_for": ["model tiny: starting"], "errors": []}


async def test_while_it_loads_it_says_what_the_replica_is_doing(world: World) -> None:
    world.calls.status = STARTING
    world.replica("quantising layer 3 of 30")
    assert await world.services.ready() == {
        "ready": False,
        "waiting_for": ["Model: updating", "model tiny: quantising layer 3 of 30"],
        "errors": [],
    }


async def test_with_card_and_healthy_deployments_it_is_ready(world: World) -> None:
    await world.learn_card()
    world.replica("ready")
    assert await world.services.ready() == {"ready": True, "waiting_for": [], "errors": []}


async def test_a_second_replica_that_loads_does_not_make_it_unready(world: World) -> None:
    await world.learn_card()
    world.replica("ready")
    world.replica("loading the weights", id="two", started_s_ago=1)
    assert (await world.services.ready())["ready"]


@pytest.mark.parametrize(
    ("seen_s_ago", "stopped"), [(60.0, False), (60.0, True), (0.0, True)], ids=["killed", "stopped long ago", "stopped just now"]
)
async def test_a_replica_of_the_past_is_not_waited_for(world: World, seen_s_ago: float, stopped: bool) -> None:
    await world.learn_card()
    world.replica("loading the weights", seen_s_ago=seen_s_ago, stopped=stopped)
    assert (await world.services.ready())["waiting_for"] == []


async def test_a_model_that_cannot_be_loaded_says_what_to_do(world: World) -> None:
    world.calls.status = {**HEALTHY, "Model": ("DEPLOY_FAILED", "The deployment failed to start 3 times in a row.")}
    world.replica("failed: no such folder; set model.source to one that exists", stopped=True)
    assert await world.services.ready() == {
        "ready": False,
        "waiting_for": ["Model: deploy failed", "model tiny: failed: no such folder; set model.source to one that exists"],
        "errors": ["Model: The deployment failed to start 3 times in a row."],
    }


async def test_the_latest_try_is_told_and_not_the_one_before(world: World) -> None:
    world.replica("failed: no such folder", id="one", started_s_ago=60, stopped=True)
    world.replica("importing torch and transformers", id="two", started_s_ago=1)
    assert (await world.services.ready())["waiting_for"] == ["model tiny: importing torch and transformers"]


async def test_settings_that_were_not_taken_over_are_told_while_it_serves(world: World) -> None:
    await world.learn_card()
    world.calls.settings_errors = [None, "Model.user_config.max_waiting: wrong\nModel.user_config.max_batch_size: wrong"]
    assert await world.services.ready() == {
        "ready": True,
        "waiting_for": [],
        "errors": ["Model.user_config.max_waiting: wrong", "Model.user_config.max_batch_size: wrong"],
    }


async def test_the_card_is_asked_for_until_it_comes_and_never_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_services, "CARD_RETRY_S", 0.001)
    world.services.start()
    await until(lambda: world.calls.num_card_calls >= 3)
    assert (await world.services.cards(), world.services.model_ids()) == ((), ("tiny",))
    world.calls.load()
    await until(lambda: bool(world.services._cards))
    calls = world.calls.num_card_calls
    assert world.services._task is not None
    await world.services._task
    assert (await world.services.cards(), world.calls.num_card_calls) == ((CARD,), calls)


async def test_the_report_is_that_of_this_moment(world: World) -> None:
    world.ledger.add([LedgerRow(7200, "tiny", "", "miss", "stop", 3, 20, 10, 4.0, 10.0, 0.0, 0.002, 6.0)])
    world.replica("ready")
    world.calls.metrics.observe("frugal_engine_batch_size", 3)
    before = time.time()
    data = await world.services.report()
    assert before <= data["until"] <= time.time()
    assert data["requests"]["by_outcome"] == {"miss": 3}
    assert data["similar"] == []
    assert data["batching"]["batch_sizes"] == {"<=4": 1}
    assert [replica["id"] for replica in data["replicas"]["each"]] == ["one"]
    assert world.calls.asked == [("flush",), ("snapshot",)], "the books are flushed before they are read"


async def test_metrics_are_those_of_every_replica(world: World) -> None:
    world.calls.metrics.set("frugal_engine_waiting", 7)
    text = await world.services.metrics()
    assert 'frugal_engine_waiting{deployment="Model",replica="one"} 7.0\n' in text
    assert all(f"# HELP {name.removesuffix('_total')}" in text for name in METRICS)


async def test_metrics_and_readiness_are_answered_although_no_replica_can_be_reached(world: World) -> None:
    for method in ("snapshot", "settings_error"):
        world.calls.broken[method] = TimeoutError("no replica answers")
    transport = httpx.ASGITransport(app=build_app(world.services))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        metrics, ready = await client.get("/metrics"), await client.get("/ready")
    assert (metrics.status_code, metrics.text.startswith("# ")) == (200, True)
    assert (ready.status_code, ready.json()["ready"]) == (503, False)


async def test_own_requests_are_counted_by_route(world: World) -> None:
    world.services.observe("GET", "/v1/articles/{id}", 404, 0.25)
    families = dict(world.services.own_metrics.snapshot("Ingress", "one").families)
    (counted,) = families["frugal_http_requests_total"]
    assert (dict(counted.labels), counted.value) == ({"method": "GET", "route": "/v1/articles/{id}", "status": "404"}, 1.0)


async def test_answers_come_from_the_answer_cache(world: World) -> None:
    assert await world.services.answer(ask("Hi")) == Answer(Opening("miss", "key"), "Hi", finish())
    assert [item async for item in world.services.stream(ask("Hi"))] == [Opening("miss", "key"), finish()]


async def test_changes_of_feeds_go_to_feeds_and_its_errors_come_back(world: World) -> None:
    url = "https://example.org/feed"
    assert (await world.services.add_feed(url, {"full_text": True})).url == url
    await world.services.change_feed("feed0", {"full_text": None})
    await world.services.refresh_feed("feed0")
    await world.services.remove_feed("feed0")
    await world.services.check_feed(url)
    await world.services.retry_article("a0")
    await world.services.retry_digest("2026-11-25", "ai")
    assert world.calls.asked == [
        ("add_feed", url, {"full_text": True}),
        ("change_feed", "feed0", {"full_text": None}, None),
        ("refresh_feed", "feed0"),
        ("remove_feed", "feed0"),
        ("check_feed", url),
        ("retry_article", "a0"),
        ("retry_digest", "2026-11-25", "ai"),
    ]
    world.calls.broken["add_feed"] = Conflict("it is there already")
    with pytest.raises(Conflict, match="it is there already"):
        await world.services.add_feed(url, {})


async def test_feeds_and_articles_are_read_from_the_store_although_feeds_is_gone(world: World) -> None:
    added = ArticleStore(world.database).add_feed("https://example.org/feed", 100.0)
    world.calls.broken["add_feed"] = Unavailable("gone")
    assert await world.services.feeds() == (added,)
    assert await world.services.articles(ArticleQuery()) == ArticlePage((), None)
    with pytest.raises(NotFound):
        await world.services.article("nothing")


async def test_the_settings_are_those_of_the_moment(world: World) -> None:
    assert world.services.settings == IngressSettings()
    world.settings.update({"request_timeout_s": 5})
    assert world.services.settings == IngressSettings(request_timeout_s=5)


@pytest.mark.parametrize("status", ["UPSCALING", "DOWNSCALING"])
async def test_a_change_of_scale_does_not_make_it_unready(world: World, status: str) -> None:
    await world.learn_card()
    world.replica("ready")
    world.calls.status = {**HEALTHY, "Model": (status, "a second replica is starting")}
    assert await world.services.ready() == {"ready": True, "waiting_for": [], "errors": []}


async def test_more_questions_than_max_in_flight_are_refused_with_a_time_to_come_back(world: World) -> None:
    world.settings.update({"max_in_flight": 1})
    first = world.services.stream(ask())
    assert await anext(first) == Opening("miss", "key")
    with pytest.raises(Overloaded) as refusal:
        await world.services.answer(ask())
    assert refusal.value.retry_after_s is not None
    await first.aclose()
    assert (await world.services.answer(ask())).text == ask().generate.messages[-1].content


async def test_a_stop_refuses_new_questions_and_counts_those_that_still_run(world: World) -> None:
    world.settings.update({"drain_s": 7})
    running = world.services.stream(ask())
    await anext(running)
    assert (world.services.refuse_new(), world.services.num_running) == (7, 1)
    with pytest.raises(Stopping) as refusal:
        await world.services.answer(ask())
    assert (refusal.value.status, refusal.value.retry_after_s) == (503, 30)
    assert [item async for item in running] == [finish()]
    assert world.services.num_running == 0


async def test_an_answer_that_may_be_replayed_is_not_asked_for_again_and_is_in_the_books(world: World) -> None:
    world.calls.replay_s = 60.0
    first = await world.services.answer(ask("Hi"))
    again = [item async for item in world.services.stream(ask("Hi"))]
    assert (first.opening.outcome, world.calls.num_asked) == ("miss", 1)
    assert [type(item).__name__ for item in again] == ["Opening", "Chunk", "Finish"]
    assert isinstance(again[0], Opening)
    assert again[0].outcome == "hit"
    await world.services.flush()
    (row,) = world.ledger.rows()
    assert (row.outcome, row.requests) == ("hit", 1)


async def test_what_was_deleted_is_not_replayed_here(world: World) -> None:
    world.calls.replay_s = 10.0
    assert [(await world.services.answer(ask())).opening.outcome for _ in range(2)] == ["miss", "hit"]
    world.services.forget(Selection(key="f" * 64))
    assert ((await world.services.answer(ask())).opening.outcome, world.calls.num_asked) == ("miss", 2)


async def test_a_deletion_is_told_to_the_other_replicas(world: World) -> None:
    assert await world.services.stored.delete(Selection(model="tiny")) == (0, 2)
    assert world.calls.asked == [("forget", str(Selection(model="tiny")))]


async def test_daily_digests_are_read_from_the_database(world: World) -> None:
    assert ArticleStore(world.database).lease(LEASE, "me", 0.0, 1e12)
    DailyStore(world.database).begin("me", "2026-11-25", ("ai", "law"), 1.0)
    page = await world.services.digests(DailyQuery(limit=1))
    assert [digest.tag for digest in page.digests] == ["ai"]
    (behind,) = (await world.services.digests(DailyQuery(limit=1, cursor=page.next_cursor))).digests
    assert behind.tag == "law"


async def test_webhooks_are_read_from_the_database_and_sent_by_feeds(world: World) -> None:
    webhook = Webhook(url="https://me.test/in", secret="whsec_" + "A" * 32)
    assert ArticleStore(world.database).lease(LEASE, "me", 0.0, 1e12)
    WebhookStore(world.database).sync("me", [webhook], 1.0)
    assert [(one.id, one.state) for one in await world.services.webhooks()] == [(webhook.id, "active")]
    assert await world.services.dead_letters(webhook.id, 9) == ()
    assert await world.services.redeliver(webhook.id, ("msg_0",)) == 2
    assert await world.services.test_webhook(webhook.id) == "msg_1"
    assert world.calls.asked == [("redeliver", webhook.id, ("msg_0",)), ("test_webhook", webhook.id)]
