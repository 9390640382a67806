"""Rings: the folder of a test is its ring. At the end, which rings ran and which were skipped, and why. And a database in every ring."""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Iterator

import pytest

from serve_app.store.database import Database

TESTS = pathlib.Path(__file__).parent
RINGS = ("fast", "process", "engine", "cluster", "corpus", "postgres", "valkey", "model", "gpu", "ray")  # from the quickest to the slowest
for variable in ("FRUGAL_DATABASE_URL", "FRUGAL_ANSWERS_URL"):
    os.environ.pop(variable, None)  # it would win over every test's own, and may be one that somebody uses
pytest.register_assert_rewrite("tests.contract_store", "tests.engine.contract_engine", "tests.engine.engine_bench")  # imported by tests


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database, of the kind that the ring has."""
    database = Database(database_url)
    yield database
    database.close()


def ring_of(path: pathlib.Path) -> str:
    """The ring of a test file."""
    return path.relative_to(TESTS).parts[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`, three workers on two cores: the tests of the quick rings wait for a third of their time."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its ring; the rings run from the quickest to the slowest."""
    for item in items:
        item.add_marker(ring_of(item.path))
    items.sort(key=lambda item: RINGS.index(ring_of(item.path)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per ring that ran or was skipped, and one for the others."""
    terminalreporter.section("rings")
    told = {ring: _told(terminalreporter, ring) for ring in RINGS}
    for ring, words in told.items():
        if words:
            terminalreporter.line(f"{ring:<9}{words}")
    if others := [ring for ring, words in told.items() if not words]:
        terminalreporter.line(f"not part of this run: {', '.join(others)}")


def _told(reporter: pytest.TerminalReporter, ring: str) -> str:
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in reporter.stats.get(outcome, []):
            if ring in report.nodeid.split("/")[1:2]:
                counts[outcome] += 1
                if outcome == "skipped" and isinstance(report.longrepr, tuple):
                    reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + why
