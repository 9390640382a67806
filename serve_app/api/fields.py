"""Strict request fields, and what to say about a wrong one: its name, the limit and the remedy, in one line.

A field's `description` is written as what may be sent ("a number from 0 to 2"), so that the documentation and the error message are the
same words. Knows no HTTP. Tests: tests/fast/test_api_openai.py, tests/fast/test_api_errors.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from serve_app.errors import BadRequest
from serve_app.problems import path_text, unknown_key_remedy

MAX_LINES = 5  # mistakes shown at once
MAX_SHOWN = 80  # characters of a wrong value


class Body(BaseModel):
    """Base of request bodies: no string becomes a number, no unknown keys, and null means absent, as OpenAI's clients mean it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class Query(BaseModel):
    """Base of query strings: no unknown names, and an empty value means absent, as a form without scripts sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value not in ("", None)} if isinstance(data, dict) else data


@dataclass(frozen=True, slots=True)
class Only:
    """Annotation of a field that is known, and whose other values we do not serve."""

    allowed: tuple[Any, ...]
    remedy: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"enum": list(self.allowed)}

    def _check(self, value: Any) -> Any:
        # The types are compared too, because True == 1 in Python.
        if any(type(value) is type(known) and value == known for known in self.allowed):
            return value
        known = " or ".join(map(_json_word, self.allowed)) or "nothing"
        raise ValueError(f"only {known} is served here, not {shown(value)}; {self.remedy}")


def bad_request(errors: Sequence[Mapping[str, Any]], model: type[BaseModel] | None) -> BadRequest:
    """pydantic's list of mistakes in a body or query of type `model`, as one error; `param` is the first mistake's field."""
    errors = [error for error in errors if not _follows_from_another(error, errors)]
    lines = [_line(error, model) for error in errors]
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return BadRequest("\n".join(lines[:MAX_LINES] + more), param=_path(errors[0]) or None)


def shown(value: object) -> str:
    """A wrong value, short enough and printable whatever it is."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _line(error: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    path, kind = _path(error) or "the body", error["type"]
    if kind == "extra_forbidden":
        return f"{path}: unknown field; {unknown_key_remedy(_names(error)[-1], _known(error, model))}"
    expected = _description(error, model)
    remedy = f"; send {expected}" if expected else ""
    if kind == "missing":
        return f"{path}: is required{remedy}"
    if kind == "value_error":
        return f"{path}: {error['ctx']['error']}"
    said = str(error["msg"]).replace("tuple", "list")  # JSON has no tuples
    return f"{path}: {said[:1].lower()}{said[1:]}, not {shown(error['input'])}{remedy}"


def _follows_from_another(error: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> bool:
    """A list is too short for pydantic also where its only item was wrong."""
    loc = tuple(error["loc"])
    return error["type"] == "too_short" and any(len(other["loc"]) > len(loc) and tuple(other["loc"])[: len(loc)] == loc for other in errors)


def _path(error: Mapping[str, Any]) -> str:
    return path_text("", tuple(_inside(error["loc"])))


def _inside(loc: Iterable[int | str]) -> list[int | str]:
    """The location without FastAPI's first part, which says where in the request it was."""
    parts = list(loc)
    return parts[1:] if parts[:1] and parts[0] in ("body", "query", "path", "header") else parts


def _names(error: Mapping[str, Any]) -> list[str]:
    return [str(part) for part in _inside(error["loc"])]


def _description(error: Mapping[str, Any], model: type[BaseModel] | None) -> str | None:
    names = _names(error)
    if model is None or not names:
        return None
    for name, field in model.model_fields.items():
        if names[0] in (name, field.alias):
            return field.description
    return None


def _known(error: Mapping[str, Any], model: type[BaseModel] | None) -> list[str]:
    """The names that the object with the unknown key does know."""
    for name in _names(error)[:-1]:
        if model is not None and not name.isdigit():
            field = next((f for key, f in model.model_fields.items() if name in (key, f.alias)), None)
            model = _model_in(field.annotation) if field else None
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first request model inside an annotation such as `tuple[Turn, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in getattr(annotation, "__args__", ()) if (found := _model_in(inner))), None)


def _json_word(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value).replace("'", '"')
