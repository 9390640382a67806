"""What all settings have in common; the settings themselves are in settings.py. Tests: tests/fast/test_settings.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from serve_app.errors import ConfigError
from serve_app.problems import problems

Seconds = float
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base: frozen, strict (no string becomes a number), no unknown keys, no infinite number (which no database and no JSON keeps)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def load(cls: type[S], data: Mapping[str, Any] | None, where: str = "") -> S:
        """Check plain data, as YAML or JSON gives it, against this model.

        Raises:
            ConfigError: one line per mistake, each with its path below `where` and the remedy.
        """
        if not isinstance(data, Mapping | None):
            raise ConfigError(f"{where or cls.__name__}: must be a mapping, not {type(data).__name__}; use plain YAML values")
        try:
            # Through JSON, because strict mode then takes a list for a tuple and still no string for a number.
            return cls.model_validate_json(json.dumps(dict(data or {})))
        except pydantic.ValidationError as error:
            raise ConfigError("\n".join(problems(error, cls, where))) from None
        except TypeError as error:
            raise ConfigError(f"{where or cls.__name__}: {error}; use plain YAML values") from None
