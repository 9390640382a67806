"""The two shapes of load: a closed loop (N clients, each waits for its answer) and an open one (arrivals that wait for nobody).

A closed loop slows down with the server and so hides a stall; the open loop plans its arrivals in advance and counts every latency from the
plan ("coordinated omission", https://www.scylladb.com/2021/04/22/on-coordinated-omission/). Knows no HTTP: `send` gives a Reply or raises
RequestFailed. Ctrl-C arrives as a cancellation and ends a load early, with what there is. Tests: tests/fast/test_bench_load.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from serve_app.bench.samples import Reply, RequestFailed, Run, Sample

T = TypeVar("T")
Send = Callable[[T], Awaitable[Reply]]


class Clock(Protocol):
    """Seconds that only grow."""

    def now(self) -> float:
        """The time."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Let others run at least once, until then."""
        ...


class WallClock:
    """`perf_counter`; the loop's own clock stands still within one of its turns (uvloop's counts milliseconds)."""

    now = staticmethod(time.perf_counter)

    async def sleep_until(self, when: float) -> None:
        """See Clock."""
        await asyncio.sleep(max(0.0, when - self.now()))


WALL = WallClock()


async def closed_loop(send: Send[T], requests: Iterable[T], num_clients: int, limit_s: float, clock: Clock = WALL) -> Run:
    """`num_clients` clients, each sends its next request when its last one ended; none is sent after `limit_s`."""
    run, left, deadline = Run(), iter(requests), clock.now() + limit_s

    async def client() -> None:
        for request in left:
            if (now := clock.now()) >= deadline:
                run.cut_short = True
                return
            run.num_sent += 1
            await _one(send, request, now, run, clock)

    with _measured(run, clock):
        async with asyncio.TaskGroup() as clients:
            for _ in range(num_clients):
                clients.create_task(client())
    return run


async def open_loop(
    send: Send[T], requests: Iterable[T], rate: float, max_outstanding: int, seed: int, limit_s: float, clock: Clock = WALL
) -> Run:
    """A Poisson process of `rate` arrivals per second. One that finds `max_outstanding` requests in flight is dropped and counted."""
    run, draw = Run(), random.Random(seed)
    planned = started = clock.now()
    with _measured(run, clock):
        async with asyncio.TaskGroup() as in_flight:
            for request in requests:
                planned += draw.expovariate(rate)
                if planned - started >= limit_s:
                    run.cut_short = True
                    break
                await clock.sleep_until(planned)
                if run.num_outstanding >= max_outstanding:
                    run.num_dropped += 1
                else:
                    run.num_sent += 1
                    in_flight.create_task(_one(send, request, planned, run, clock))
    return run


async def _one(send: Send[T], request: T, planned: float, run: Run, clock: Clock) -> None:
    sent_at = clock.now()
    result: Reply | str
    try:
        result = await send(request)
    except RequestFailed as error:
        result = error.kind
    run.samples.append(Sample(planned, sent_at, clock.now(), result))


@contextlib.contextmanager
def _measured(run: Run, clock: Clock) -> Iterator[None]:
    started, cpu = clock.now(), time.process_time()
    try:
        yield
    except asyncio.CancelledError:
        run.interrupted = True
    finally:
        run.wall_s, run.cpu_s = clock.now() - started, time.process_time() - cpu
