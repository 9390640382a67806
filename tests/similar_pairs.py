"""The labelled pairs of similar_pairs.tsv: may the answer to `stored` stand for the answer to `asked`?

The first 396 were written before the gate; a third of them, chosen by a hash of the texts, is held out. The 84 fresh ones were written
when the gate was done, and tried on it once.
"""

from __future__ import annotations

import csv
import pathlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """`split`: tune, held-out or fresh. `same`: what a person says. `category`: what the second question does to the first."""

    split: str
    category: str
    same: bool
    stored: str
    asked: str


def load() -> list[Pair]:
    """All pairs."""
    with pathlib.Path(__file__).with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Pair(row["split"], row["category"], row["label"] == "same", row["stored"], row["asked"]) for row in rows]
