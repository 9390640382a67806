"""`bench lookup` with small numbers: its figures are there, its arms are the real routes, and its ratio knows a difference."""

from __future__ import annotations

import json
import random

from click.testing import CliRunner

from serve_app.__main__ import main
from serve_app.bench.lookup import memory_figures, ratio


def test_the_command_prints_a_table_and_one_json_document() -> None:
    result = CliRunner().invoke(main, ["bench", "lookup", "--entries", "300", "--requests", "20", "--seconds", "0.02"])
    assert result.exit_code == 0, result.output
    *table, last = result.stdout.splitlines()
    document = json.loads(last)
    http = document["http"]
    assert (http["few"]["entries"], http["many"]["entries"], http["requests"]) == (20, 300, 20)
    assert 0 < http["ratio_95"][0] <= http["ratio"] <= http["ratio_95"][1]
    assert document["memory"]["key_given_per_s"] > document["memory"]["key_made_per_s"] > 0
    assert [line.split(",")[0] for line in table[:2]] == ["in memory", "in memory"]
    assert len(table) == 5


def test_lookups_in_memory_are_counted() -> None:
    figures = memory_figures(num_answers=100, seconds=0.01, rounds=1)
    assert (figures["answers"], figures["key_given_per_s"] > 1000) == (100, True)


def test_a_difference_of_a_tenth_is_outside_the_interval_and_none_is_inside() -> None:
    chance = random.Random(1)
    few = [1.0 + chance.gauss(0, 0.2) for _ in range(500)]
    same = chance.sample(few, len(few))
    found, (low, high) = ratio(few, same, chance)
    assert low <= found <= high
    assert low < 1 < high
    found, (low, high) = ratio(few, [1.1 * value for value in same], chance)
    assert low > 1
