"""docs/similar.md says what the settings and the metrics are."""

from __future__ import annotations

import pathlib
import re

from serve_app.metrics import METRICS
from serve_app.settings_similar import SimilarSettings

DOC = (pathlib.Path(__file__).parents[2] / "docs" / "similar.md").read_text(encoding="utf-8")


def test_the_table_of_settings_has_all_of_them_with_their_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", DOC.partition("## Settings")[2], re.MULTILINE))
    assert {name: told.strip("`") for name, told in rows.items()} == {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in SimilarSettings().model_dump().items()
    }


def test_the_table_of_metrics_has_all_of_them() -> None:
    told = set(re.findall(r"^\| `(frugal_similar_\w+)", DOC, re.MULTILINE))
    assert told == {name for name in METRICS if name.startswith("frugal_similar_")}
