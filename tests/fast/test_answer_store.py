"""The answer store's contract, on SQLite. tests/process kills processes that write to it."""

from tests.contract_store.answer_rows import *  # noqa: F403 (tests, which pytest finds by their names here)
from tests.contract_store.answers import *  # noqa: F403
