"""When requests are sent: N at once and never more, or as planned whatever the server does; how a load ends."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator

import pytest

from serve_app.bench.load import closed_loop, open_loop
from serve_app.bench.replies import Question
from serve_app.bench.samples import Reply, RequestFailed, Run, Sample
from tests.fast.fakes_bench import HandClock, TinyServer

LONG = 1e9
REPLY = Reply(7, 2)


@pytest.fixture
async def server() -> AsyncIterator[TinyServer]:
    async with TinyServer() as server:
        yield server


class Desk:
    """Takes questions and answers them when it is told to."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.waiting: list[asyncio.Future[Reply]] = []
        self.taken: list[int] = []

    async def send(self, number: int) -> Reply:
        self.taken.append(number)
        self.waiting.append(asyncio.get_running_loop().create_future())
        return await self.waiting[-1]

    async def answer_all(self) -> None:
        """Everybody who waits now, and then let them ask again."""
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_result(REPLY)
        await turns()


async def turns() -> None:
    """Let everybody who can do something do it."""
    for _ in range(200):
        await asyncio.sleep(0)


async def test_a_closed_loop_keeps_exactly_as_many_requests_in_flight_as_it_has_clients(server: TinyServer) -> None:
    server.behave = server.hangs
    async with server.sender() as sender:
        running = asyncio.create_task(closed_loop(sender.send, [Question(b"{}")] * 12, 5, LONG))
        await server.until_outstanding(5)
        server.release.set()
        run = await running
    assert (run.num_sent, len(run.samples), run.num_outstanding) == (12, 12, 0)
    assert server.most_outstanding == 5


async def test_a_client_sends_its_next_request_when_its_last_one_ended() -> None:
    desk = Desk(HandClock())
    running = asyncio.create_task(closed_loop(desk.send, range(5), 2, LONG, desk.clock))
    await turns()
    seen = [list(desk.taken)]
    desk.waiting.pop(0).set_result(REPLY)
    await turns()
    seen.append(list(desk.taken))
    await desk.answer_all()
    seen.append(list(desk.taken))
    await desk.answer_all()
    await running
    assert seen == [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4]]


async def test_more_clients_than_requests_is_fine() -> None:
    async def send(number: int) -> Reply:
        return REPLY

    assert len((await closed_loop(send, range(2), 8, LONG)).samples) == 2


async def test_nothing_is_sent_after_the_limit_and_what_is_in_flight_ends() -> None:
    desk = Desk(HandClock())
    running = asyncio.create_task(closed_loop(desk.send, range(9), 2, 60.0, desk.clock))
    await turns()
    desk.clock.pass_s(60.0)
    await desk.answer_all()
    run = await running
    assert (len(run.samples), run.cut_short, run.wall_s) == (2, True, 60.0)
    assert [sample.ended_at - sample.planned_at for sample in run.samples] == [60.0, 60.0]


async def test_failures_are_samples_with_their_kind_and_the_client_goes_on() -> None:
    async def send(number: int) -> Reply:
        if number % 2:
            raise RequestFailed("status_500")
        return REPLY

    run = await closed_loop(send, range(4), 1, LONG)
    assert [sample.result for sample in run.samples] == [REPLY, "status_500", REPLY, "status_500"]


async def test_an_open_loop_counts_from_the_planned_arrival_while_the_server_stalls() -> None:
    desk = Desk(HandClock())
    draw = random.Random(3)
    planned = list(itertools.accumulate(draw.expovariate(10.0) for _ in range(6)))
    running = asyncio.create_task(open_loop(desk.send, range(6), 10.0, 100, 3, LONG, desk.clock))
    await turns()
    assert desk.taken == [0, 1, 2, 3, 4, 5]  # nobody answered, and all came
    desk.clock.pass_s(30.0)
    await desk.answer_all()
    run = await running
    assert [sample.planned_at - 1000.0 for sample in run.samples] == pytest.approx(planned)
    assert [sample.ended_at - sample.planned_at for sample in run.samples] == pytest.approx([planned[-1] + 30.0 - at for at in planned])


async def test_a_generator_that_is_late_itself_still_counts_from_the_plan() -> None:
    clock = HandClock()

    async def send(number: int) -> Reply:
        clock.pass_s(5.0)  # blocks the generator, so that the next arrivals are sent late
        return REPLY

    run = await open_loop(send, range(3), 10.0, 100, 0, LONG, clock)
    late = [sample.sent_at - sample.planned_at for sample in run.samples]
    assert late[0] == 0.0
    assert late[1] > 4.0
    assert [sample.ended_at - sample.planned_at for sample in run.samples] == pytest.approx([each + 5.0 for each in late])


async def test_arrivals_beyond_the_bound_are_dropped_and_counted() -> None:
    desk = Desk(HandClock())
    running = asyncio.create_task(open_loop(desk.send, range(10), 10.0, 4, 0, LONG, desk.clock))
    await turns()
    await desk.answer_all()
    run = await running
    assert (desk.taken, run.num_sent, run.num_dropped, len(run.samples)) == ([0, 1, 2, 3], 4, 6, 4)


async def test_arrivals_are_the_same_for_the_same_seed_and_end_at_the_limit() -> None:
    async def send(number: int) -> Reply:
        return REPLY

    runs = [await open_loop(send, range(1000), 10.0, 9, seed, 20.0, HandClock()) for seed in (1, 1, 2)]
    first, again, other = ([sample.planned_at for sample in run.samples] for run in runs)
    assert first == again != other
    assert all(run.cut_short for run in runs)
    assert 120 < len(first) < 280  # 200 expected, with a standard deviation of 14


async def test_an_interruption_ends_a_closed_loop_with_what_there_is() -> None:
    desk = Desk(HandClock())
    running = asyncio.create_task(closed_loop(desk.send, range(9), 2, LONG, desk.clock))
    await turns()
    await desk.answer_all()
    running.cancel()
    run = await running
    assert (run.interrupted, len(run.samples), run.num_outstanding) == (True, 2, 2)


async def test_an_open_loop_is_interrupted_while_it_waits_for_answers() -> None:
    desk = Desk(HandClock())
    running = asyncio.create_task(open_loop(desk.send, range(2), 1.0, 2, 0, LONG, desk.clock))
    await turns()
    running.cancel()
    run: Run = await running
    assert (run.interrupted, run.samples, run.num_outstanding) == (True, list[Sample](), 2)
