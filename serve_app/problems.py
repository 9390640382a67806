"""Pure: what is wrong with a configuration, one line per mistake with its place and the remedy. Tests: tests/fast/test_settings.py."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import pydantic
from pydantic import BaseModel


def problems(error: pydantic.ValidationError, cls: type[BaseModel], where: str) -> Iterator[str]:
    """One line per mistake of a validation: its path below `where`, what is wrong, the remedy."""
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        path = path_text(where, _place(cls, loc)) or cls.__name__
        if detail["type"] == "extra_forbidden":
            yield f"{path}: unknown key; {unknown_key_remedy(str(loc[-1]), _known(cls, loc[:-1]))}"
        elif detail["type"] == "value_error":
            yield f"{path}: {detail['ctx']['error']}"
        else:
            yield f"{path}: {detail['msg']}, not {_shown(detail['input'])}"


def path_text(where: str, loc: tuple[int | str, ...]) -> str:
    """`a`, (`b`, 0, `c`) -> `a.b[0].c`."""
    text = where
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def unknown_key_remedy(key: str, known: list[str]) -> str:
    """What to do about a key that nobody knows."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"remove it (known: {', '.join(sorted(known))})"


def _place(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without the parts by which pydantic names the member of a union, which stand in no file."""
    return tuple(part for at, part in enumerate(loc) if isinstance(part, int) or _known(cls, loc[:at]))


def _known(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand at a place; none where it holds a plain value."""
    model: Any = cls
    for part in loc:
        if isinstance(part, str) and _is_model(model) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = next((inner for inner in getattr(annotation, "__args__", ()) if _is_model(inner)), annotation)
    return list(model.model_fields) if _is_model(model) else []


def _is_model(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, BaseModel)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
