"""Processes that store for ever and are killed at any moment, whichever store it is."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from multiprocessing.connection import Connection

PutForEver = Callable[[str, int, Connection], None]  # of a module's own, because the child imports it: url, first number, where to say each


def kill_while_storing(put_for_ever: PutForEver, url: str, num_kills: int, most: int) -> int:
    """Kill so many writers one after the other, each after 1 to `most` stored answers; the last number that was said to be stored."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([put_for_ever.__module__])
    chance, acknowledged = random.Random(7), -1
    for _ in range(num_kills):
        hear, said = context.Pipe(duplex=False)
        child = context.Process(target=put_for_ever, args=(url, acknowledged + 1, said), daemon=True)
        child.start()
        said.close()
        for _ in range(chance.randint(1, most)):
            acknowledged = hear.recv()
        for _ in range(chance.randint(0, 150_000)):  # so that the kill comes anywhere inside the next store
            pass
        child.kill()
        child.join(10)
        while hear.poll():
            try:
                acknowledged = hear.recv()
            except EOFError:
                break
    return acknowledged
