"""`frugal-serve logs`: the end of the log, and what comes after it, also when the log is begun anew."""

from __future__ import annotations

import pathlib

import pytest

from serve_app.program import tail


@pytest.fixture
def log(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "serve.log"
    path.write_text("one\ntwo\nthree\n")
    return path


@pytest.mark.parametrize(("last", "shown"), [(0, []), (2, ["two", "three"]), (9, ["one", "two", "three"])])
def test_the_last_lines(log: pathlib.Path, last: int, shown: list[str]) -> None:
    assert list(tail.lines(log, last)) == shown


def test_it_goes_on_with_what_comes(log: pathlib.Path) -> None:
    lines = tail.lines(log, 1, follow=True)
    assert next(lines) == "three"
    with log.open("a") as writer:
        writer.write("four\n")
    assert next(lines) == "four"


@pytest.mark.parametrize("replaced", [True, False], ids=["a new file", "the same file, emptied"])
def test_a_log_that_is_begun_anew_is_read_from_its_beginning(log: pathlib.Path, replaced: bool) -> None:
    lines = tail.lines(log, 1, follow=True)
    assert next(lines) == "three"
    if replaced:
        log.replace(log.with_name("serve.log.1"))
    log.write_text("new\n")
    assert next(lines) == "new"


def test_every_begins_at_once() -> None:
    assert list(tail.every(60, forever=False)) == [0]
    assert next(tail.every(60, forever=True)) == 0
