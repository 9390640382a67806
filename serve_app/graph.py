"""The Ray graph: four deployments and `build`, which serve_config.yaml names. With handles.py the only file that imports ray.

    Ingress -> AnswerCache -> Model        Ingress -> Feeds -> AnswerCache

Each deployment is a shell: it wires a plain class to handles and nothing more. It imports that class when it is made: each replica is a
process of its own, and importing what the others need took two seconds of every start on two cores. Tests: tests/ray.

No `from __future__ import annotations` here: it would turn the builder's annotation into a string, which Serve silently ignores.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from serve_app.errors import FrugalError, ModelChanged
from serve_app.handles import Calls, ModelHandle, actor_started_at, as_value, whole_answer
from serve_app.live import Live
from serve_app.messages import Answer, Ask, Failed, Generate, Item, ModelCard, Selection
from serve_app.messages_feeds import Article, DailyDigest, Feed, Probe, Rerun, RerunPreview
from serve_app.metrics import Snapshot
from serve_app.model.engine import Stream
from serve_app.settings import AppSettings, IngressSettings

ROUTER = RequestRouterConfig(
    request_router_class="ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
    request_router_kwargs={"num_fallback_replicas": 0},  # with fallbacks, 200 callers of one key made 2 generations
)
SHELL = {
    "user_config": {},  # so that `reconfigure` is always called, also where the file has no user_config
    "health_check_period_s": 5,
    "health_check_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 0.2,
    "graceful_shutdown_timeout_s": 8,
}
# Serve lets a replica's requests end before it deletes it: one that is scaled down finishes the answers it has begun. At the end of the
# whole program this costs nothing, because those who ask are gone by then.
MODEL_SHUTDOWN_S = 120


class ModelDeployment:
    """One replica of the weights; Serve starts and stops replicas by the requests that wait."""

    async def __init__(self, app: AppSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        started_at = actor_started_at()
        from serve_app.model.replica import ModelReplica

        self._replica = ModelReplica(app, _replica_id(), _session(), started_at=started_at)
        await self._replica.start()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._replica.tune(user_config)
        self._group.set_max_batch_size(self._replica.tuning.max_batch_size)
        self._group.set_batch_wait_timeout_s(self._replica.tuning.batch_wait_timeout_s)

    # The gate: groups arrivals, so that they share a prefill, and returns at once; the engine decodes. 64: groups never wait for groups.
    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.02, max_concurrent_batches=64)  # type: ignore[untyped-decorator]
    async def _group(self, streams: list[Stream]) -> list[Stream | FrugalError]:
        # In a thread: tokenising a group of long prompts takes a second, in which streams, health checks and the books would stand still.
        return await asyncio.to_thread(self._replica.engine.admit, streams)

    async def generate(self, request: Generate) -> AsyncGenerator[Item, None]:
        if request.fingerprint not in ("", self._replica.card.fingerprint):
            yield Failed(ModelChanged("the model has just been changed; send the request again", retry_after_s=2))
            return
        async with contextlib.aclosing(self._replica.generate(request, self._group)) as items:
            async for item in items:
                yield item

    async def describe(self) -> ModelCard:
        return self._replica.card

    async def promote(self, request_id: str) -> None:
        self._replica.engine.promote(request_id)

    async def flush(self) -> None:
        await self._replica.beat()

    async def snapshot(self) -> Snapshot:
        return self._replica.metrics.snapshot("Model", _replica_id())

    async def settings_error(self) -> str | None:
        return self._replica.settings_error

    async def check_health(self) -> None:
        self._replica.check()

    async def __del__(self) -> None:
        await self._replica.stop(drain_s=0)  # Serve has waited for the running requests already


class AnswerCacheDeployment:
    """One shard of the answers: every question always comes to the same one."""

    def __init__(self, app: AppSettings, model: DeploymentHandle) -> None:
        from serve_app.cache.shard import AnswerShard

        self._model = ModelHandle(model, app.model.id)
        self._shard = AnswerShard(app, self._generate, self._fingerprint, self._model.promote, _session())
        self._shard.start()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._shard.tune(user_config)

    async def whole(self, ask: Ask) -> Answer | Failed:
        return await as_value(self._shard.answers.whole(ask))

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        try:
            async with contextlib.aclosing(self._shard.answers.stream(ask)) as items:
                async for item in items:
                    yield item
        except FrugalError as error:
            yield Failed(error)

    async def flush(self) -> None:
        await self._shard.flush()

    async def forget(self, selection: Selection) -> None:
        self._shard.forget(selection)

    async def give_up(self) -> None:
        """The program stops and its time to drain is over: everybody who still waits gets an error."""
        await self._shard.answers.close()

    async def snapshot(self) -> Snapshot:
        return self._shard.metrics.snapshot("AnswerCache", _replica_id())

    async def settings_error(self) -> str | None:
        return self._shard.settings_error

    async def check_health(self) -> None:
        self._shard.check()

    async def __del__(self) -> None:
        await self._shard.stop()

    async def _generate(self, request: Generate) -> AsyncGenerator[Item, None]:
        async with contextlib.aclosing(self._model.generate(request)) as items:
            async for item in items:
                if isinstance(item, Failed) and isinstance(item.error, ModelChanged):
                    self._model.forget_card()
                yield item

    async def _fingerprint(self) -> str:
        return (await self._model.card()).fingerprint


class FeedsDeployment:
    """Exactly one replica: the loop that checks feeds and has their articles summarised."""

    def __init__(self, app: AppSettings, answers: DeploymentHandle) -> None:
        from serve_app.feeds.service import FeedsService

        self._answers = answers
        self._service = FeedsService(app, _replica_id(), self._answer, _session())

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        await self._service.tune(user_config)  # the first call starts the loop: not before it knows which feeds

    async def add_feed(self, url: str, options: dict[str, Any]) -> Feed | Failed:
        return await as_value(self._service.add_feed(url, options))

    async def change_feed(self, feed_id: str, options: dict[str, Any], paused: bool | None) -> Feed | Failed:
        return await as_value(self._service.change_feed(feed_id, options, paused))

    async def remove_feed(self, feed_id: str) -> Failed | None:
        return await as_value(self._service.remove_feed(feed_id))

    async def refresh_feed(self, feed_id: str) -> Feed | Failed:
        return await as_value(self._service.refresh_feed(feed_id))

    async def check_feed(self, url: str) -> Probe | Failed:
        return await as_value(self._service.check_feed(url))

    async def retry_article(self, article_id: str) -> Article | Failed:
        return await as_value(self._service.retry_article(article_id))

    async def retry_digest(self, date: str, tag: str) -> DailyDigest | Failed:
        return await as_value(self._service.retry_digest(date, tag))

    async def rerun_articles(self, rerun: Rerun, dry_run: bool) -> RerunPreview | Failed:
        return await as_value(self._service.rerun_articles(rerun, dry_run))

    async def verify_push(self, feed_id: str, token: str, asked: Any) -> str | Failed:
        return await as_value(self._service.verify_push(feed_id, token, asked))

    async def take_push(self, feed_id: str, token: str, body: bytes, content_type: str | None, signature: str) -> Failed | None:
        return await as_value(self._service.take_push(feed_id, token, body, content_type, signature))

    async def redeliver(self, webhook_id: str, ids: tuple[str, ...] | None) -> int | Failed:
        return await as_value(self._service.redeliver(webhook_id, ids))

    async def test_webhook(self, webhook_id: str) -> str | Failed:
        return await as_value(self._service.test_webhook(webhook_id))

    async def rest(self) -> None:
        """See FeedsLoop.rest; program/driver.py asks before it ends the program."""
        self._service.rest()

    async def snapshot(self) -> Snapshot:
        return self._service.metrics.snapshot("Feeds", _replica_id())

    async def settings_error(self) -> str | None:
        return self._service.settings_error

    async def check_health(self) -> None:
        self._service.check()

    async def __del__(self) -> None:
        await self._service.stop()

    async def _answer(self, ask: Ask) -> Answer:
        return await whole_answer(self._answers, ask)


class IngressDeployment:
    """HTTP."""

    def __init__(self, app: AppSettings, answers: DeploymentHandle, model: DeploymentHandle, feeds: DeploymentHandle) -> None:
        from serve_app.api.graph_services import GraphServices

        self._settings = Live(IngressSettings, "Ingress.user_config", app.kept_settings("Ingress"), _session())
        self.services = GraphServices(app, self._settings, Calls(answers, model, feeds, app.model.id))
        self.services.start()

    def __serve_build_asgi_app__(self) -> Any:
        from serve_app.api.app import build_app

        return build_app(self.services, sends_request_id=False)  # Serve puts it on the reply, once more would be twice

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._settings.update(user_config)

    async def snapshot(self) -> Snapshot:
        return self.services.own_metrics.snapshot("Ingress", _replica_id())

    async def settings_error(self) -> str | None:
        return self._settings.error

    async def flush(self) -> None:
        await self.services.flush()

    async def forget(self, selection: Selection) -> None:
        self.services.forget(selection)

    async def refuse_new(self) -> float:
        """See GraphServices; program/driver.py asks before it ends the program."""
        return self.services.refuse_new()

    async def num_running(self) -> int:
        """Answers that somebody waits for."""
        return self.services.num_running

    async def __del__(self) -> None:
        await self.services.stop()


def build(args: dict[str, Any]) -> serve.Application:
    """The application of serve_config.yaml from its `args`.

    Raises:
        ConfigError: one line per mistake.
    """
    app = AppSettings.load(args, "args").absolute()
    of_model = {"ray_actor_options": _model_resources(app), "graceful_shutdown_timeout_s": MODEL_SHUTDOWN_S}
    model = _deployment(ModelDeployment, max_ongoing_requests=512, **of_model).bind(app)
    answers = _deployment(AnswerCacheDeployment, max_ongoing_requests=4096, request_router_config=ROUTER).bind(app, model)
    feeds = _deployment(FeedsDeployment, max_ongoing_requests=100).bind(app, answers)
    return _deployment(serve.ingress()(IngressDeployment), max_ongoing_requests=1024).bind(app, answers, model, feeds)


def _deployment(cls: Any, **options: Any) -> Any:
    """`XDeployment` as the deployment `X`."""
    name = cls.__name__.removesuffix("Deployment")
    return serve.deployment(cls, name=name, **{"ray_actor_options": {"num_cpus": 0}, **SHELL, **options})


def _model_resources(app: AppSettings) -> dict[str, Any]:
    """One GPU per replica on CUDA; on a CPU one core is asked for, so that a second replica fits, and all are used (see Threads)."""
    wanted = app.model.device
    if wanted == "cuda" or (wanted == "auto" and ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1):
        return {"num_cpus": 1, "num_gpus": 1}
    return {"num_cpus": 1}


def _session() -> str:
    """Names this run of the Ray cluster."""
    return str(ray.get_runtime_context().get_session_name())


def _replica_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)
