"""One answer and its readers: each gets the same text, whoever is early, late or slow, and nobody holds a copy of it."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cache.flight import Flight
from serve_app.errors import GenerationFailed
from serve_app.logprobs import Candidate, TokenLogprob
from serve_app.messages import Chunk, Failed, Finish, Item
from tests.fast.fakes import finish


def said(text: str, at: int = 0) -> Chunk:
    return Chunk(text, 1, (TokenLogprob(Candidate(text.encode("utf-8", "surrogatepass"), -1.0), (), at),))


async def all_of(items: AsyncIterator[Item]) -> tuple[Chunk, Item]:
    """Everything as one chunk, and the ending."""
    found = [item async for item in items]
    assert isinstance(found[-1], Finish | Failed)
    return Chunk.joined([item for item in found if isinstance(item, Chunk)]), found[-1]


async def test_who_keeps_up_gets_each_chunk_as_it_is() -> None:
    flight, chunk = Flight("key"), said("one ")
    reader = flight.follow()
    flight.push(chunk)
    assert await anext(reader) is chunk


async def test_who_is_behind_gets_what_waits_as_one_chunk() -> None:
    flight, pieces = Flight("key"), [said("one ", 0), said("two ", 4), said("three", 8)]
    reader = flight.follow()
    flight.push(pieces[0])
    await anext(reader)
    flight.push(pieces[1])
    flight.push(pieces[2])
    assert await anext(reader) == Chunk("two three", 2, pieces[1].logprobs + pieces[2].logprobs)
    assert flight.so_far() == Chunk("one two three", 3, tuple(log for piece in pieces for log in piece.logprobs))


async def test_a_token_without_text_yet_is_counted() -> None:
    flight = Flight("key")
    reader = flight.follow()
    flight.push(Chunk("", 1))
    assert await anext(reader) == Chunk("", 1)
    flight.push(Chunk("é", 1))
    assert (await anext(reader), flight.so_far()) == (Chunk("é", 1), Chunk("é", 2))


@pytest.mark.parametrize("ending", [finish(), Failed(GenerationFailed("broke"))], ids=["good", "bad"])
async def test_there_is_one_ending(ending: Item) -> None:
    flight = Flight("key")
    flight.push(Chunk("half", 1))
    flight.push(ending)
    assert await all_of(flight.follow()) == (Chunk("half", 1), ending)
    with pytest.raises(AssertionError):
        flight.push(Chunk("more", 1))


TEXTS = st.lists(st.text(st.characters(exclude_categories=()), max_size=5), max_size=12)


@given(TEXTS, st.lists(st.integers(0, 4), max_size=12))
def test_every_reader_gets_the_same_however_it_hurries_or_waits(texts: list[str], paces: list[int]) -> None:
    async def scenario() -> None:
        flight, readers = Flight("key"), []
        for number, text in enumerate(texts):
            readers.append(asyncio.create_task(all_of(flight.follow())))
            flight.push(said(text, number))
            for _ in range(paces[number] if number < len(paces) else 0):
                await asyncio.sleep(0)
        readers.append(asyncio.create_task(all_of(flight.follow())))
        flight.push(finish())
        got = await asyncio.gather(*readers)
        whole = Chunk.joined([said(text, number) for number, text in enumerate(texts)])
        assert set(got) == {(whole, finish())}

    asyncio.run(scenario())


async def test_a_long_answer_in_small_pieces_takes_little_more_than_its_text_however_many_are_behind() -> None:
    num_pieces, num_readers = 20_000, 100
    flight = Flight("key")
    readers = [flight.follow() for _ in range(num_readers)]
    flight.push(Chunk("first", 1))
    for reader in readers:
        await anext(reader)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(num_pieces):
            flight.push(Chunk(f"{number:05d}", 1))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 * 5 * num_pieces < num_pieces * sys.getsizeof(Chunk("00000", 1))  # the last: what a list of chunks takes
    assert await anext(readers[0]) == Chunk("".join(f"{number:05d}" for number in range(num_pieces)), num_pieces)
