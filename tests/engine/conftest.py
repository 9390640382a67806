"""What the engines' tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def quick_gc() -> Iterator[None]:
    """For engines over transformers' continuous batching: it collects garbage at each stop, a second over all that tests have imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
