"""Load over HTTP against a running server: workloads one after the other, each with its figures, and what they were measured on.

The modules beside it each do one thing: workloads.py what is asked, load.py when, sender.py how, figures.py what it came to, paired.py the
same without the server, cache.py the same past the cache, own_server.py a server where none runs, table.py for people.
Tests: tests/fast/test_bench_http.py, tests/ray.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import serve_app
from serve_app.bench import paired
from serve_app.bench.figures import figures
from serve_app.bench.load import closed_loop, open_loop
from serve_app.bench.machine import conditions
from serve_app.bench.samples import RequestFailed, Run, joined
from serve_app.bench.sender import Sender
from serve_app.bench.turns import take_turns
from serve_app.bench.workloads import Ask, Name, Workload, build
from serve_app.client import Client, ClientError

Say = Callable[[str], None]
CARD = ("id", "quantization", "dtype", "device", "fingerprint")


@dataclass(frozen=True, slots=True)
class Load:
    """How the questions are sent. With a `rate` the loop is open, and `connections` bounds what is in flight."""

    connections: int = 32
    rate: float | None = None
    timeout_s: float = 300.0
    duration_s: float = 300.0
    rounds: int = 3


class HttpBench:
    """One benchmark of one server. `engine`: compare `stream` with it.

    Raises:
        ClientError: nobody answers there, it is not ready, or it serves other weights than the engine.
    """

    def __init__(self, url: str, load: Load, ask: Ask, say: Say, engine: paired.EngineSender | None = None) -> None:
        self._url = url
        self._load = load
        self._ask = ask
        self._say = say
        self._engine = engine
        self._salt = secrets.token_hex(2)
        self._server = describe(url)
        if engine and engine.fingerprint != self._server["model"]["fingerprint"]:
            raise ClientError(f"{url} serves other weights than the engine has; name the configuration that the server was started on")

    def run(self, names: tuple[Name, ...]) -> dict[str, Any]:
        """The JSON document. Ctrl-C ends it early with what there is."""
        self._say(f"measuring {self._url}; Ctrl-C ends it early and prints what there is")
        about = {"conditions": {**conditions(), "server": self._server, "url": self._url}}
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runs = runner.run(self._all(names))
        return {"benchmark": "http", **(runs[0] if len(runs) == 1 else {"runs": runs}), **about}

    async def _all(self, names: tuple[Name, ...]) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = []
        for name in names:
            runs.append(await (self._paired() if self._engine and name == "stream" else self._plain(name)))
            if runs[-1]["interrupted"]:
                break
        return runs

    async def _plain(self, name: Name) -> dict[str, Any]:
        workload = self._build(name)
        return self._told(workload, await self._measure(workload))

    async def _paired(self) -> dict[str, Any]:
        workload = self._build("stream")
        num = len(workload.questions) + 1

        async def server(number: int) -> Run:
            return await self._measure(self._build("stream", number * num))

        async def engine(number: int) -> Run:
            assert self._engine is not None
            asked = self._build("stream", number * num)
            if number == 0:
                await self._engine.send(asked.primes[0])
            return await closed_loop(self._engine.send, asked.questions, self._load.connections, self._load.duration_s)

        pairs = await take_turns(server, engine, self._load.rounds)
        return {**self._told(workload, joined([pair.first for pair in pairs])), **paired.compare(pairs)}

    def _build(self, name: Name, first: int = 0) -> Workload:
        return build(name, self._ask, self._server["model"]["id"], self._salt, first)

    async def _measure(self, workload: Workload) -> Run:
        return await measure(self._url, workload, self._load, self._ask.seed, self._say)

    def _told(self, workload: Workload, run: Run) -> dict[str, Any]:
        load = {"connections": self._load.connections, "rate": self._load.rate}
        return {"workload": workload.name, **load, **figures(run), **workload.told, "seed": self._ask.seed}


async def measure(url: str, workload: Workload, load: Load, seed: int, say: Say) -> Run:
    """Send one workload as the load says, on connections of its own. Ctrl-C ends it early with what there is."""
    async with Sender(url, load.connections, load.timeout_s, workload.headers) as sender:
        for prime in workload.primes:
            try:
                await sender.send(prime)
            except RequestFailed as error:
                say(f"{workload.name}: the first request, which is not counted, failed: {error.kind}")
                break
        if load.rate is None:
            return await closed_loop(sender.send, workload.questions, load.connections, load.duration_s)
        return await open_loop(sender.send, workload.questions, load.rate, load.connections, seed, load.duration_s)


def describe(url: str) -> dict[str, Any]:
    """Which server and which model answer there.

    Raises:
        ClientError: nobody answers, or it is not ready, with what it waits for.
    """
    with Client(url) as client:
        state = client.get("/ready")
        if not state["ready"]:
            waits = "; ".join([*state["waiting_for"], *state["errors"]])
            raise ClientError(f"{url} is not ready: {waits}; wait until `frugal-serve status` says ready")
        model = client.get("/v1/models")["data"][0]
        profile = {"profile": state["profile"]} if "profile" in state else {}
        version = client.get("/openapi.json")["info"]["version"]
        return {"version": version, **profile, "model": {name: model.get(name) for name in CARD}, "generator": serve_app.__version__}


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest event loop that there is here."""
    try:
        import uvloop
    except ImportError:  # where there is none (Windows), the plain loop costs a third more per request
        return None
    return uvloop.new_event_loop
