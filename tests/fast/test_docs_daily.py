"""docs/daily.md says what the settings are."""

from __future__ import annotations

import pathlib
import re

import yaml

from serve_app.feeds.daily import MAX_WORDS_EACH
from serve_app.settings_daily import DailySettings
from serve_app.settings_feeds import FeedsSettings

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "daily.md").read_text(encoding="utf-8")


def test_every_setting_is_there_with_its_default() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", PAGE, re.MULTILINE))
    assert list(told) == ["tags", "at", "timezone", "template", "max_words", "max_tokens", "frequency_penalty"]
    assert set(told) == set(DailySettings.model_fields)
    defaults = {name: str(value) for name, value in DailySettings().model_dump().items()}
    assert {name: told[name] for name in told if name not in ("tags", "template")} == {
        name: defaults[name] for name in told if name not in ("tags", "template")
    }


def test_the_example_is_taken() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (entry,) = yaml.safe_load(text)
    assert FeedsSettings.load(entry["user_config"]).digest == DailySettings(tags=("payments", "*"), timezone="Europe/Berlin")


def test_the_room_of_an_article_is_that_of_the_code() -> None:
    assert f"at most {MAX_WORDS_EACH} words of each" in PAGE
