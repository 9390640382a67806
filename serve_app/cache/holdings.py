"""What is stored, by model and feed, for the report.

To count it the whole store is read, which takes seconds with millions of answers. So it is done at most once in `LOOK_S`, in the
background, and no report waits for it for more than `patience_s`. Tests: tests/fast/test_holdings.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from serve_app.errors import FrugalError
from serve_app.store.answers import Group

log = logging.getLogger(__name__)

LOOK_S = 30.0


class Holdings:
    """`look` reads the store. `now` is a clock in seconds that does not go back."""

    def __init__(
        self, look: Callable[[], Awaitable[Sequence[Group]]], patience_s: float = 0.3, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._patience_s = patience_s
        self._now = now
        self._looking: asyncio.Task[None] | None = None
        self._looked_at: float | None = None
        self._groups: tuple[Group, ...] | None = None

    async def latest(self) -> tuple[Group, ...] | None:
        """As of the last look that succeeded; None before there was one."""
        if self._looking is None and (self._looked_at is None or self._now() - self._looked_at >= LOOK_S):
            # A fresh context: Serve cancels what a request started when its caller leaves, and the next report wants this too.
            self._looking = asyncio.create_task(self._refresh(), context=contextvars.Context())
        if self._looking is not None:
            await asyncio.wait([self._looking], timeout=self._patience_s)
        return self._groups

    def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _refresh(self) -> None:
        try:
            self._groups = tuple(await self._look())
        except FrugalError as error:
            log.warning("cannot tell what is stored, by model and feed: %s", error.message)
        finally:
            self._looking, self._looked_at = None, self._now()
