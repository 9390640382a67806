"""How fast a stored answer is found: in memory, and over HTTP with few and with very many stored answers, in turn.

The HTTP arms are the real routes and a real AnswerCache shard over SQLite in this process, without Ray, whose hops would hide a difference,
and without memory and replays, which would hide the store. Tests: tests/process/test_bench_lookup.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import pathlib
import random
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import aiohttp
import uvicorn

from serve_app.api.app import build_app
from serve_app.api.graph_services import GraphServices
from serve_app.api.openai import ChatRequest
from serve_app.bench.figures import percentiles
from serve_app.bench.machine import conditions
from serve_app.cache.key import answer_key
from serve_app.cache.memory import Memory
from serve_app.cache.shard import AnswerShard
from serve_app.live import Live
from serve_app.messages import Answer, Ask, Finish, Generate, Item, ModelCard, Selection, Usage
from serve_app.settings import AppSettings, IngressSettings, ModelSettings, SamplingDefaults
from serve_app.store.answers import AnswerStore, StoredAnswer, row_of
from serve_app.store.database import Database
from serve_app.store.schema import answers

MODEL, FINGERPRINT = "bench", "f" * 64
FINISH = Finish("length", Usage(60, 100), 1.5, 2.0, 0.01, 0.2, 1.6, 4, 0.00002)
TEXT = "An answer of the length that answers have, about nothing in particular. " * 6
STEP = 20_000  # rows per transaction while a store is filled
NUM_RESAMPLES = 1000
"""Of the bootstrap (Efron, 1979) behind the interval of a ratio of medians."""


def run(num_entries: int, num_requests: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures: lookups in memory, `seconds` for each, and, where `num_entries` is not 0, hits over HTTP."""
    document = {"bench": "lookup", "conditions": conditions(), "memory": memory_figures(seconds=seconds)}
    if num_entries:
        with tempfile.TemporaryDirectory(prefix="frugal-bench-lookup-") as folder:
            document["http"] = asyncio.run(_http(pathlib.Path(folder), num_entries, num_requests, say))
    return document


def memory_figures(num_answers: int = 10_000, seconds: float = 0.5, rounds: int = 3) -> dict[str, Any]:
    """Lookups per second in a full memory layer, the median of `rounds`: with the key given, and with the key made of the question."""
    memory = Memory(64_000_000, 3600.0, time.monotonic)
    asks = [_ask(number) for number in range(num_answers)]
    keys = [answer_key(ask, FINGERPRINT) for ask in asks]
    for key in keys:
        memory.fill(_stored(key), memory.epoch)

    def given(number: int) -> bool:
        return memory.get(keys[number]) is not None

    def made(number: int) -> bool:
        return memory.get(answer_key(asks[number], FINGERPRINT)) is not None

    rates = [(_rate(given, num_answers, seconds), _rate(made, num_answers, seconds)) for _ in range(rounds)]
    return {
        "answers": num_answers,
        "key_given_per_s": round(statistics.median(rate for rate, _ in rates)),
        "key_made_per_s": round(statistics.median(rate for _, rate in rates)),
    }


def table(document: dict[str, Any]) -> str:
    """For people."""
    memory = document["memory"]
    lines = [
        f"in memory, key given                     {memory['key_given_per_s']:>12,} lookups/s",
        f"in memory, canonical JSON and SHA-256    {memory['key_made_per_s']:>12,} lookups/s",
    ]
    if http := document.get("http"):
        for arm in ("few", "many"):
            figures = http[arm]
            lines.append(
                f"hit over HTTP, {figures['entries']:>9,} stored   p50 {figures['p50_ms']:.3f} ms   p95 {figures['p95_ms']:.3f} ms"
            )
        low, high = http["ratio_95"]
        lines.append(f"many / few, medians of {http['requests']} pairs: {http['ratio']:.3f} (95 % from {low:.3f} to {high:.3f})")
    return "\n".join(lines)


def ratio(few: Sequence[float], many: Sequence[float], chance: random.Random) -> tuple[float, tuple[float, float]]:
    """Median of `many` over median of `few`, and its 95 % interval by resampling the pairs."""
    pairs = list(zip(few, many, strict=True))
    found = sorted(_of_medians(chance.choices(pairs, k=len(pairs))) for _ in range(NUM_RESAMPLES))
    return _of_medians(pairs), (found[int(NUM_RESAMPLES * 0.025)], found[int(NUM_RESAMPLES * 0.975) - 1])


def _of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(many for _, many in pairs) / statistics.median(few for few, _ in pairs)


def _rate(look: Callable[[int], bool], num_answers: int, seconds: float) -> float:
    found = done = 0
    started = time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        found += sum(map(look, range(num_answers)))
        done += num_answers
    assert found == done, "the memory did not hold them all"
    return done / taken


async def _http(folder: pathlib.Path, num_entries: int, num_requests: int, say: Callable[[str], None]) -> dict[str, Any]:
    sizes = {"few": num_requests, "many": max(num_entries, num_requests)}
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession())
        urls = {}
        for arm, size in sizes.items():
            say(f"storing {size:,} answers")
            app = AppSettings(data_dir=str(folder / arm), model=ModelSettings(id=MODEL))
            await asyncio.to_thread(_fill, app, size, num_requests)
            urls[arm] = await stack.enter_async_context(_served(app))
        say(f"{num_requests} hits each, in turn")
        times = await _in_turn(client, urls, num_requests)
    found, interval = ratio(times["few"], times["many"], random.Random(0))
    spread = {arm: {f"p{percent}_ms": round(value * 1000, 3) for percent, value in percentiles(times[arm]).items()} for arm in times}
    arms = {arm: {"entries": sizes[arm], **spread[arm]} for arm in times}
    return {"requests": num_requests, **arms, "ratio": round(found, 4), "ratio_95": [round(bound, 4) for bound in interval]}


async def _in_turn(client: aiohttp.ClientSession, urls: dict[str, str], num_requests: int) -> dict[str, list[float]]:
    """Seconds of each hit: every question goes to both, and who comes first is drawn each time."""
    chance = random.Random(0)
    times: dict[str, list[float]] = {arm: [] for arm in urls}
    order = chance.sample(range(num_requests), num_requests)
    warm_up = order[:20]
    for number in [*warm_up, *order]:
        for arm in chance.sample(sorted(urls), len(urls)):
            started = time.perf_counter()
            async with client.post(f"{urls[arm]}/v1/chat/completions", json=_body(number)) as reply:
                await reply.read()
            times[arm].append(time.perf_counter() - started)
            assert (reply.status, reply.headers["x-cache"]) == (200, "hit"), reply.status
    return {arm: found[len(warm_up) :] for arm, found in times.items()}


def _fill(app: AppSettings, num_entries: int, num_questions: int) -> None:
    """Store the answers to the questions, among as many others as it takes, in the random order of their keys."""
    keys = [answer_key(_ask(number), FINGERPRINT) for number in range(num_questions)]
    keys += [hashlib.sha256(str(number).encode()).hexdigest() for number in range(num_entries - num_questions)]
    random.Random(0).shuffle(keys)
    database = Database(app.database)
    for some in _steps(keys):
        rows = [{**row_of(_stored(key)), "hits": 0, "value": 1.0} for key in some]
        with database.begin() as connection:
            connection.execute(answers.insert(), rows)
    assert AnswerStore(database).totals().entries == num_entries
    database.close()


def _steps(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), STEP):
        yield keys[start : start + STEP]


@contextlib.asynccontextmanager
async def _served(app: AppSettings) -> AsyncIterator[str]:
    """The routes and a shard over this store, on a loopback port; gives its address."""
    shard = AnswerShard(app, _no_model, _fingerprint, _nobody)
    shard.tune({"memory_bytes": 0, "replay_s": 0})
    services = GraphServices(app, Live(IngressSettings, "Ingress.user_config"), _Calls(shard))
    # By name TCP: asyncio switches Nagle's algorithm off only where the socket says so, and every other hit would take 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(build_app(services), log_config=None, lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            await services.stop()
            await shard.stop()


class _Calls:
    """The graph without Ray: one shard, and no model and no feeds."""

    def __init__(self, shard: AnswerShard) -> None:
        self._shard = shard

    async def card(self) -> ModelCard:
        raise NotImplementedError

    async def answer(self, ask: Ask) -> Answer:
        return await self._shard.answers.whole(ask)

    def stream(self, ask: Ask) -> AsyncGenerator[Item, None]:
        return self._shard.answers.stream(ask)

    async def feeds(self, method: str, *args: str) -> Any:
        raise NotImplementedError

    async def broadcast(self, method: str) -> list[Any]:
        return []

    async def forget(self, selection: Selection) -> int:
        raise NotImplementedError

    async def deployments(self) -> dict[str, tuple[str, str]]:
        return {}


async def _no_model(request: Generate) -> AsyncGenerator[Item, None]:
    if request:
        raise AssertionError("every question has a stored answer")
    yield FINISH


async def _fingerprint() -> str:
    return FINGERPRINT


async def _nobody(_request_id: str) -> None:
    raise AssertionError("every question has a stored answer")


def _body(number: int) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"What is the answer to question number {number}?"}], "temperature": 0}


def _ask(number: int) -> Ask:
    return ChatRequest.model_validate(_body(number)).ask("bench", SamplingDefaults())


def _stored(key: str) -> StoredAnswer:
    return StoredAnswer(key, MODEL, "", "", TEXT, FINISH, time.time())
