"""docs/engines.md says what the engines declare."""

from __future__ import annotations

import pathlib
import re

from serve_app.model.capabilities import ALL, ENGINES

DOC = pathlib.Path(__file__).parents[2] / "docs" / "engines.md"


def test_the_table_of_fields_is_what_the_engines_declare() -> None:
    table = DOC.read_text(encoding="utf-8").partition("| field |")[2].partition("\n\n")[0].splitlines()
    engines = re.findall(r"`(\w+)`", table[0])
    said: dict[str, dict[str, str]] = {}
    for line in table[2:]:
        field, *cells = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
        said[field] = dict(zip(engines, cells, strict=True))
    assert said == {
        field: {engine: "yes" if field in served else "refused" for engine, served in sorted(ENGINES.items())} for field in sorted(ALL)
    }
