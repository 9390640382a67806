"""The `n` answers of one request, made side by side: all of them or an error, and none of them goes on where one has failed.

Each is an Ask of its own, so it is admitted, cached, joined and paid for like any other. No HTTP. Tests: tests/fast/test_api_choices.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from serve_app.api.connection import close
from serve_app.api.services import Services
from serve_app.errors import GenerationFailed
from serve_app.messages import Answer, Ask, Failed, Finish, Item

News = tuple[int, Item] | Exception  # what came for which choice


async def answers(services: Services, asks: Sequence[Ask]) -> list[Answer]:
    """Whole answers, in the order of the asks. The first error is raised, after the others have been cancelled."""
    if len(asks) == 1:
        return [await services.answer(asks[0])]
    tasks = [asyncio.create_task(services.answer(ask)) for ask in asks]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def streams(services: Services, asks: Sequence[Ask]) -> AsyncGenerator[tuple[int, Item], None]:
    """The items of all answers as they come, each with its choice's index, up to the last good ending; every wrong ending is raised."""
    if len(asks) == 1:
        async with aclosing(_checked(services.stream(asks[0]))) as items:
            async for item in items:
                yield 0, item
        return
    news: asyncio.Queue[News] = asyncio.Queue()  # as long as a reader is slow: no more than the answers' own tokens
    tasks = [asyncio.create_task(_pump(index, services.stream(ask), news)) for index, ask in enumerate(asks)]
    try:
        num_running = len(asks)
        while num_running:
            came = await news.get()
            if isinstance(came, Exception):
                raise came
            num_running -= isinstance(came[1], Finish)
            yield came
    finally:
        await _end(tasks)


async def _pump(index: int, items: AsyncIterator[Item], news: asyncio.Queue[News]) -> None:
    try:
        async with aclosing(_checked(items)) as checked:
            async for item in checked:
                news.put_nowait((index, item))
    except Exception as error:
        news.put_nowait(error)


async def _checked(items: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """The same up to the good ending; every wrong one becomes a raised error."""
    try:
        async for item in items:
            if isinstance(item, Failed):
                raise item.error
            yield item
            if isinstance(item, Finish):
                return
        raise GenerationFailed("the answer broke off without an ending; send the request again")
    finally:
        await close(items)


async def _end(tasks: Sequence[asyncio.Task[Answer]] | Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
