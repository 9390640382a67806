"""`bench feeds` for some seconds: real processes and sockets, every poll on time and every host left in peace."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from serve_app.bench.feed_site import Seen
from serve_app.commands.bench import bench


def test_a_short_run_misses_nothing_and_ends_with_one_document() -> None:
    options = ("--feeds", "24", "--hosts", "12", "--interval", "4", "--duration", "9")
    done = CliRunner().invoke(bench, ["feeds", *options])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout.splitlines()[-1])
    assert (document["feeds_seen"], document["missed_ticks"], document["host_max_at_once"], document["ok"]) == (24, 0, 1, True)
    assert document["polls"] > 24, "with a quarter added by chance, 9 s hold one poll of each at least; of some two"
    assert document["host_gap_min_s"] >= 0.99
    assert set(document["statuses"]) == {"200", "304"}
    assert document["checks"].get("error", 0) == 0
    assert "missed ticks        0" in done.stdout


def test_missed_ticks_and_impatience_are_seen() -> None:
    seen = Seen({"a": [0.0, 60.5, 180.0], "b": [0.0, 61.0]}, {"h": [0.0, 0.4]}, max_live=2)
    document = seen.document(180.0, 60.0)
    assert (document["missed_ticks"], document["gap_max_s"], document["host_gap_min_s"], document["host_max_at_once"]) == (1, 119.5, 0.4, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--feeds", "1", "--hosts", "2"), "lower it"),
        (("--feeds", "100", "--hosts", "1"), "raise --hosts"),
        (("--duration", "20"), "at least twice"),
    ],
)
def test_a_load_that_cannot_be_measured_is_refused(options: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(bench, ["feeds", *options])
    assert (done.exit_code, words in done.output) == (2, True)
