"""The Ray graph: four deployments, their handles, and `build`, which serve_config.yaml names. The only file that imports ray.

    Ingress -> AnswerCache -> Model        Ingress -> Feeds -> AnswerCache

Each deployment is a shell: it wires a plain class to handles and nothing more. Expected errors cross a handle as values (`Failed`), because
an exception costs a pickled traceback and a log entry at every hop. Tests: tests/ray.

No `from __future__ import annotations` here: it would turn the builder's annotation into a string, which Serve silently ignores.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from serve_app.cache.key import shard_key
from serve_app.cache.shard import AnswerShard
from serve_app.errors import FrugalError, Unavailable
from serve_app.feeds.service import FeedsService
from serve_app.live import Live
from serve_app.messages import Answer, Ask, Failed, Feed, Finish, Generate, Item, ModelCard
from serve_app.metrics import Snapshot
from serve_app.model.engine import Stream
from serve_app.model.replica import ModelReplica
from serve_app.settings import AppSettings, IngressSettings

T = TypeVar("T")

log = logging.getLogger("ray.serve")

LOST = (RayActorError, ActorUnavailableError)  # the replica died before or while it answered
MAX_TRIES = 3
BROADCAST_TIMEOUT_S = 5
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
DRAIN_S = 6  # of the graceful_shutdown_timeout_s


class ModelDeployment:
    """One replica of the weights; Serve starts and stops replicas by the requests that wait."""

    async def __init__(self, app: AppSettings) -> None:  # type: ignore[misc]  # Serve awaits it
        self._replica = ModelReplica(app, _replica_id(), _session())
        await self._replica.start()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._replica.tune(user_config)
        self._group.set_max_batch_size(self._replica.tuning.max_batch_size)
        self._group.set_batch_wait_timeout_s(self._replica.tuning.batch_wait_timeout_s)

    # The gate: groups arrivals, so that they share a prefill, and returns at once; the engine decodes. 64: groups never wait for groups.
    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.02, max_concurrent_batches=64)  # type: ignore[untyped-decorator]
    async def _group(self, streams: list[Stream]) -> list[Stream | FrugalError]:
        return self._replica.engine.admit(streams)

    async def generate(self, request: Generate) -> AsyncGenerator[Item, None]:
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
        await self._replica.stop(DRAIN_S)


class AnswerCacheDeployment:
    """One shard of the answers: every question always comes to the same one."""

    def __init__(self, app: AppSettings, model: DeploymentHandle) -> None:
        self._model = model
        self._card: asyncio.Task[ModelCard] | None = None
        self._shard = AnswerShard(app, self._generate, self._fingerprint, self._promote, _session())
        self._shard.start()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._shard.tune(user_config)

    async def whole(self, ask: Ask) -> Answer | Failed:
        try:
            return await self._shard.answers.whole(ask)
        except FrugalError as error:
            return Failed(error)

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        try:
            async with contextlib.aclosing(self._shard.answers.stream(ask)) as items:
                async for item in items:
                    yield item
        except FrugalError as error:
            yield Failed(error)

    async def flush(self) -> None:
        await self._shard.flush()

    async def snapshot(self) -> Snapshot:
        return self._shard.metrics.snapshot("AnswerCache", _replica_id())

    async def settings_error(self) -> str | None:
        return self._shard.settings_error

    async def check_health(self) -> None:
        self._shard.check()

    async def __del__(self) -> None:
        await self._shard.stop()

    async def _generate(self, request: Generate) -> AsyncGenerator[Item, None]:
        call = self._model.options(stream=True).generate
        async with contextlib.aclosing(_retried(lambda: call.remote(request), "Model")) as items:
            async for item in items:
                yield item

    async def _promote(self, request_id: str) -> None:
        await self._model.broadcast("promote", request_id).results_async(timeout_s=BROADCAST_TIMEOUT_S)

    async def _fingerprint(self) -> str:
        return (await _card(self, self._model)).fingerprint


class FeedsDeployment:
    """Exactly one replica: the loop that checks feeds and has their articles summarised."""

    def __init__(self, app: AppSettings, answers: DeploymentHandle) -> None:
        self._answers = answers
        self._service = FeedsService(app, _replica_id(), self._answer, _session())

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        await self._service.tune(user_config)  # the first call starts the loop: not before it knows which feeds

    async def add_feed(self, url: str) -> Feed | Failed:
        return await _as_value(self._service.add_feed(url))

    async def remove_feed(self, feed_id: str) -> Failed | None:
        return await _as_value(self._service.remove_feed(feed_id))

    async def refresh_feed(self, feed_id: str) -> Feed | Failed:
        return await _as_value(self._service.refresh_feed(feed_id))

    async def snapshot(self) -> Snapshot:
        return self._service.metrics.snapshot("Feeds", _replica_id())

    async def settings_error(self) -> str | None:
        return self._service.settings_error

    async def check_health(self) -> None:
        self._service.check()

    async def __del__(self) -> None:
        await self._service.stop()

    async def _answer(self, ask: Ask) -> Answer:
        return await _whole_answer(self._answers, ask)


class IngressDeployment:
    """HTTP."""

    def __init__(self, app: AppSettings, answers: DeploymentHandle, model: DeploymentHandle, feeds: DeploymentHandle) -> None:
        from serve_app.api.graph_services import GraphServices

        self._settings = Live(IngressSettings, "Ingress.user_config", app.kept_settings("Ingress"), _session())
        self.services = GraphServices(app, self._settings, Calls(answers, model, feeds))
        self.services.start()

    def __serve_build_asgi_app__(self) -> Any:
        from serve_app.api.app import build_app

        return build_app(self.services)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._settings.update(user_config)

    async def snapshot(self) -> Snapshot:
        return self.services.own_metrics.snapshot("Ingress", _replica_id())

    async def settings_error(self) -> str | None:
        return self._settings.error

    async def __del__(self) -> None:
        await self.services.stop()


class Calls:
    """What Ingress asks of the other deployments, as plain coroutines: api/graph_services.py sees no Ray."""

    def __init__(self, answers: DeploymentHandle, model: DeploymentHandle, feeds: DeploymentHandle) -> None:
        self._answers = answers
        self._feeds = feeds
        self._model = model
        self._handles = {"AnswerCache": answers, "Model": model, "Feeds": feeds}
        self._card: asyncio.Task[ModelCard] | None = None

    async def card(self) -> ModelCard:
        """Of the model, once it is loaded."""
        return await _card(self, self._model)

    async def answer(self, ask: Ask) -> Answer:
        """A whole answer; errors are raised."""
        return await _whole_answer(self._answers, ask)

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        """An answer item by item."""
        call = self._answers.options(stream=True, session_id=shard_key(ask)).stream
        async with contextlib.aclosing(_retried(lambda: call.remote(ask), "AnswerCache")) as items:
            async for item in items:
                yield item

    async def feeds(self, method: str, *args: str) -> Any:
        """Have Feeds do something; errors are raised."""
        try:
            return _raised(await getattr(self._feeds, method).remote(*args))
        except LOST as error:
            raise Unavailable("Feeds has just been lost and is starting again; try again shortly", retry_after_s=5) from error

    async def broadcast(self, method: str) -> list[Any]:
        """Call a method of every replica of every deployment; a deployment without replicas answers nothing."""
        own = serve.get_deployment_handle("Ingress", serve.get_replica_context().app_name)
        handles = self._handles if method == "flush" else {**self._handles, "Ingress": own}
        asked = (_broadcast(handle, method) for name, handle in handles.items() if not (method == "flush" and name == "Feeds"))
        return [result for results in await asyncio.gather(*asked) for result in results]

    async def deployments(self) -> dict[str, tuple[str, str]]:
        """Deployment -> its status and message, as Serve's controller sees them."""
        status = await asyncio.to_thread(serve.status)
        app = status.applications.get(serve.get_replica_context().app_name)
        return {name: (found.status.value, found.message) for name, found in app.deployments.items()} if app else {}


def build(args: dict[str, Any]) -> serve.Application:
    """The application of serve_config.yaml from its `args`.

    Raises:
        ConfigError: one line per mistake.
    """
    app = AppSettings.load(args, "args").absolute()
    model = _deployment(ModelDeployment, max_ongoing_requests=512, ray_actor_options=_model_resources(app)).bind(app)
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


async def _whole_answer(answers: DeploymentHandle, ask: Ask) -> Answer:
    call = answers.options(session_id=shard_key(ask)).whole
    for _ in range(MAX_TRIES):
        with contextlib.suppress(*LOST):
            answer: Answer = _raised(await call.remote(ask))
            return answer
    raise Unavailable("the answer cache was lost while it answered; send the request again", retry_after_s=2)


async def _retried(call: Any, who: str) -> AsyncGenerator[Item, None]:
    """The items of a streaming call, which is made again if its replica dies before the first item."""
    for _ in range(MAX_TRIES):
        items, sent = call(), False
        try:
            async for item in items:
                sent = True
                yield item
                if isinstance(item, Finish | Failed):
                    return
            return
        except LOST as error:
            log.warning("a %s replica was lost during a request: %s", who, type(error).__name__)
            if sent:
                break
        finally:
            items.cancel()
    raise Unavailable(f"the {who} replica that made this answer was lost; send the request again", retry_after_s=2)


async def _card(holder: Any, model: DeploymentHandle) -> ModelCard:
    """The model's card, asked for once per process; a failed call is made again by the next caller."""
    if holder._card is None or (holder._card.done() and (holder._card.cancelled() or holder._card.exception())):
        holder._card = asyncio.ensure_future(_described(model))
    return await asyncio.shield(holder._card)


async def _described(model: DeploymentHandle) -> ModelCard:
    card: ModelCard = await model.describe.remote()
    return card


async def _broadcast(handle: DeploymentHandle, method: str) -> list[Any]:
    try:
        return list(await handle.broadcast(method).results_async(timeout_s=BROADCAST_TIMEOUT_S))
    except Exception as error:  # no replica at this moment, or one that has just died
        log.debug("broadcast of %s: %s", method, error)
        return []


async def _as_value(call: Awaitable[T]) -> T | Failed:
    try:
        return await call
    except FrugalError as error:
        return Failed(error)


def _raised(value: Any) -> Any:
    if isinstance(value, Failed):
        raise value.error
    return value


def _session() -> str:
    """Names this run of the Ray cluster."""
    return str(ray.get_runtime_context().get_session_name())


def _replica_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)
