"""Calls from one deployment to another: what a lost replica, a caller who leaves and a deployment that is not there yet mean.

With graph.py the only file that imports ray. Expected errors cross a handle as values (`Failed`), because an exception costs a pickled
traceback and a log entry at every hop. Tests: tests/ray.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import ActorUnavailableError, RayActorError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.cache.key import shard_key
from serve_app.errors import FrugalError, Unavailable
from serve_app.messages import Answer, Ask, Failed, Finish, Item, ModelCard, Selection

T = TypeVar("T")

log = logging.getLogger("ray.serve")

LOST = (RayActorError, ActorUnavailableError)  # the replica died before or while it answered
GONE = (RayServeException, TaskCancelledError)  # Serve gave the call up: the deployment failed, or is being deleted
MAX_TRIES = 3
BROADCAST_TIMEOUT_S = 5
STATUS_WAIT_S = 3.0
CARD_WAIT_S = 10.0  # a request that comes while the weights load waits this long, then gets a 503

_ASKED: set[asyncio.Task[list[Any]]] = set()  # the event loop holds its tasks by weak references only


class ModelHandle:
    """The model as another deployment sees it."""

    def __init__(self, handle: DeploymentHandle, model_id: str) -> None:
        self._handle = handle
        self._model_id = model_id
        self._card: asyncio.Task[ModelCard] | None = None

    async def card(self) -> ModelCard:
        """Who answers; asked for once, a failed call is made again by the next caller.

        Raises:
            Unavailable: the weights are still loading.
        """
        if self._card is not None and self._card.done():
            if not self._card.cancelled() and self._card.exception() is None:
                return self._card.result()  # without the timeout below, which costs more than the lookup of a stored answer
            self._card = None
        if self._card is None:
            # A fresh context: Serve cancels what a request started when its caller leaves, and others wait for this too.
            self._card = asyncio.create_task(self._describe(), context=contextvars.Context())
        try:
            async with asyncio.timeout(CARD_WAIT_S):
                return await asyncio.shield(self._card)
        except TimeoutError:
            message = f"model {self._model_id} is still loading; GET /ready says what it is doing"
            raise Unavailable(message, retry_after_s=5) from None

    def forget_card(self) -> None:
        """Ask again: another model answers now."""
        self._card = None

    def generate(self, request: Any) -> AsyncGenerator[Item, None]:
        """Chunks and one ending."""
        call = self._handle.options(stream=True).generate
        return retried(lambda: call.remote(request), "Model")

    async def promote(self, request_id: str) -> None:
        """A person waits for this request now."""
        await of_every_replica(self._handle, "promote", request_id)

    async def _describe(self) -> ModelCard:
        with translated("Model"):
            card: ModelCard = await self._handle.describe.remote()
            return card


class Calls:
    """What Ingress asks of the other deployments, as plain coroutines: api/graph_services.py sees no Ray."""

    def __init__(self, answers: DeploymentHandle, model: DeploymentHandle, feeds: DeploymentHandle, model_id: str) -> None:
        self._answers = answers
        self._feeds = feeds
        self._handles = {"AnswerCache": answers, "Model": model, "Feeds": feeds}
        self._model = ModelHandle(model, model_id)
        self._status: asyncio.Task[Any] | None = None

    async def card(self) -> ModelCard:
        """Of the model, once it is loaded."""
        return await self._model.card()

    async def answer(self, ask: Ask) -> Answer:
        """A whole answer; errors are raised."""
        return await whole_answer(self._answers, ask)

    async def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        """An answer item by item."""
        call = self._answers.options(stream=True, session_id=shard_key(ask)).stream
        async with contextlib.aclosing(retried(lambda: call.remote(ask), "AnswerCache")) as items:
            async for item in items:
                yield item

    async def feeds(self, method: str, *args: Any) -> Any:
        """Have Feeds do something; errors are raised."""
        with translated("Feeds"):
            return _raised(await getattr(self._feeds, method).remote(*args))

    async def broadcast(self, method: str) -> list[Any]:
        """Call a method of every replica of every deployment that has it; a deployment without replicas answers nothing."""
        own = serve.get_deployment_handle("Ingress", serve.get_replica_context().app_name)
        handles = [handle for name, handle in self._handles.items() if (method, name) != ("flush", "Feeds")] + [own]
        results = await asyncio.gather(*(_broadcast(handle, method) for handle in handles))
        return [result for of_one in results for result in of_one]

    async def forget(self, selection: Selection) -> int:
        """Have every replica that keeps answers in memory forget these; how many there were.

        Raises:
            Unavailable: not all of them have heard it.
        """
        own = serve.get_deployment_handle("Ingress", serve.get_replica_context().app_name)
        calls = [of_every_replica(handle, "forget", selection) for handle in (self._answers, own)]
        try:
            return sum(len(replies) for replies in await asyncio.gather(*calls))
        except Exception as error:
            log.warning("broadcast of forget: %s: %s", type(error).__name__, error)
            message = "the store is changed, but a replica that has not heard it may answer from memory for memory_ttl_s; send it again"
            raise Unavailable(message, retry_after_s=2) from error

    async def deployments(self) -> dict[str, tuple[str, str]]:
        """Deployment -> its status and message, as Serve's controller sees them; where it does not answer, itself as one of them."""
        if self._status is None or self._status.done():
            # One call at a time: it blocks its thread until the controller is back, and the pages need threads, too.
            self._status = asyncio.create_task(asyncio.to_thread(serve.status), context=contextvars.Context())
        try:
            async with asyncio.timeout(STATUS_WAIT_S):
                status = await asyncio.shield(self._status)
        except TimeoutError:
            return {"Serve's controller": ("NOT_ANSWERING", "")}
        app = status.applications.get(serve.get_replica_context().app_name)
        return {name: (found.status.value, found.message) for name, found in app.deployments.items()} if app else {}


async def whole_answer(answers: DeploymentHandle, ask: Ask) -> Answer:
    """Ask AnswerCache; again where its replica dies meanwhile.

    Raises:
        FrugalError: what went wrong.
    """
    call = answers.options(session_id=shard_key(ask)).whole
    with translated("AnswerCache"):
        for _ in range(MAX_TRIES - 1):
            with contextlib.suppress(*LOST):
                return await _answered(call.remote(ask))
        return await _answered(call.remote(ask))


async def of_every_replica(handle: DeploymentHandle, method: str, *args: Any) -> list[Any]:
    """What each replica of a deployment answers; the calls are made to the end, also where the one who asked has left.

    Raises:
        TimeoutError: after BROADCAST_TIMEOUT_S.
    """
    # A task of its own, in a fresh context (Serve cancels what a request started when its caller leaves): Ray gathers the replies, and a
    # gathering that is cancelled writes `_GatheringFuture exception was never retrieved` and a traceback to the log.
    asked = asyncio.create_task(_gathered(handle, method, args), context=contextvars.Context())
    _ASKED.add(asked)
    asked.add_done_callback(_ASKED.discard)
    return await asyncio.shield(asked)


async def retried(call: Callable[[], Any], who: str) -> AsyncGenerator[Item, None]:
    """The items of a streaming call, which is made again if its replica dies before the first item."""
    with translated(who):
        for attempt in range(1, MAX_TRIES + 1):
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
                if sent or attempt == MAX_TRIES:
                    raise
            finally:
                items.cancel()


def actor_started_at() -> float:
    """When Ray began this actor, in Unix seconds: up to 2 s before our first line, spent on imports that the bill holds too.

    From the table behind the dashboard's actor page; Ray's public state API does not show it. Now, where Ray does not say.
    """
    try:
        found = ray._private.state.actors(ray.get_runtime_context().get_actor_id())
        return float(found["StartTime"]) / 1000 or time.time()
    except Exception as error:
        log.warning("cannot learn when this actor began: %s", error)
        return time.time()


async def as_value(call: Awaitable[T]) -> T | Failed:
    """The result, or the expected error as a value."""
    try:
        return await call
    except FrugalError as error:
        return Failed(error)


@contextlib.contextmanager
def translated(who: str) -> Any:
    """Ray's and Serve's own errors as ours."""
    try:
        yield
    except LOST as error:
        message = f"the {who} replica that worked on this was lost; another one starts by itself, send the request again"
        raise Unavailable(message, retry_after_s=2) from error
    except GONE as error:
        raise Unavailable(f"{who} is not available at this moment; GET /ready says why", retry_after_s=5) from error


async def _gathered(handle: DeploymentHandle, method: str, args: tuple[Any, ...]) -> list[Any]:
    return list(await handle.broadcast(method, *args).results_async(timeout_s=BROADCAST_TIMEOUT_S))


async def _broadcast(handle: DeploymentHandle, method: str) -> list[Any]:
    try:
        return await of_every_replica(handle, method)
    except Exception as error:  # no replica at this moment, or one that has just died
        log.debug("broadcast of %s: %s", method, error)
        return []


async def _answered(response: Any) -> Answer:
    try:
        answer: Answer = _raised(await response)
    except asyncio.CancelledError:
        response.cancel()  # Serve does this by itself only for what one of its requests began, and the Feeds loop is none
        raise
    return answer


def _raised(value: Any) -> Any:
    if isinstance(value, Failed):
        raise value.error
    return value
