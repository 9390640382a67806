"""docs/cache.md says what the settings, the controls and the metrics are."""

from __future__ import annotations

import json
import pathlib
import re
import typing

from serve_app.api.cache_control import CacheField, parse
from serve_app.cache.rules import State
from serve_app.messages import CachePolicy
from serve_app.metrics import METRICS
from serve_app.settings_cache import CacheSettings

DOC = (pathlib.Path(__file__).parents[2] / "docs" / "cache.md").read_text(encoding="utf-8")
CONTROLS = re.findall(r"^\| (.*?) ?\| (`\".*?) \| ", DOC.partition("## Controls")[2], re.MULTILINE)


def test_the_table_of_settings_has_their_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", DOC.partition("## Freshness")[2], re.MULTILINE))
    assert set(rows) == {"ttl_s", "ttl_s_by_model", "stale_while_revalidate_s", "max_stale_s", "negative_ttl_s", "replay_s"}
    defaults = CacheSettings().model_dump()
    assert {name: json.loads(told) for name, told in rows.items()} == {name: defaults[name] for name in rows}


def test_the_table_of_controls_has_all_of_them_and_header_and_body_mean_the_same() -> None:
    named = set()
    for header, body in CONTROLS:
        fields = [CacheField.model_validate_json("{" + said.replace("N", "7").replace("S", "7") + "}") for said in _code(body)]
        named |= {(CacheField.model_fields[name].alias or name) for field in fields for name in field.model_fields_set}
        for directive, field in zip(_code(header), fields, strict=False):
            assert parse(directive.replace("N", "7")) == field.policy() != CachePolicy(), directive
    assert named == {field.alias or name for name, field in CacheField.model_fields.items()}


def test_every_state_is_there() -> None:
    told = set(re.findall(r"^\| (\w+) \| ", DOC.partition("## What a caller gets")[2].partition("\n\nWhat")[0], re.MULTILINE))
    assert told == {"state", "similar", *typing.get_args(State)}


def test_the_metrics_are_those_of_the_table() -> None:
    told = set(re.findall(r"^\| `(frugal_cache_\w+)`", DOC, re.MULTILINE))
    assert told
    assert told <= set(METRICS)


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
