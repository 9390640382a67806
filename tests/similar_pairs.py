"""The labelled pairs of similar_pairs.tsv: may the answer to `stored` stand for the answer to `asked`?

They were written before the gate. A third, chosen by a hash of the texts, is held out: gate and threshold were chosen without it.
"""

from __future__ import annotations

import csv
import pathlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """`same`: what a person says. `category`: what the second question does to the first."""

    held_out: bool
    category: str
    same: bool
    stored: str
    asked: str


def load() -> list[Pair]:
    """All pairs."""
    with pathlib.Path(__file__).with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Pair(row["split"] == "held-out", row["category"], row["label"] == "same", row["stored"], row["asked"]) for row in rows]
