"""The OpenAPI schema as rows for the page /docs. Pure; the template is reference.html.

FastAPI's own /docs loads Swagger UI from a content network; this page needs no script and works without the internet.
Tests: tests/fast/test_api_pages.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object, or one parameter of a request."""

    name: str
    type: str
    required: bool
    description: str
    default: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One documented status of an operation."""

    status: str
    description: str
    model: str
    example: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    parameters: list[Field]
    body: str
    replies: list[Reply]


@dataclass(frozen=True, slots=True)
class Object:
    """A named object of the schema."""

    name: str
    description: str
    fields: list[Field]


def operations(openapi: Schema) -> dict[str, list[Operation]]:
    """Every method of every path under its tag, in the order of the schema."""
    groups: dict[str, list[Operation]] = {}
    for path, methods in openapi["paths"].items():
        for method, raw in methods.items():
            operation = _operation(path, method, raw)
            groups.setdefault(operation.tag, []).append(operation)
    return groups


def objects(openapi: Schema) -> list[Object]:
    """Every named object, by name."""
    schemas = openapi.get("components", {}).get("schemas", {})
    return [Object(name, schema.get("description", ""), list(_fields(schema))) for name, schema in sorted(schemas.items())]


def _operation(path: str, method: str, operation: Schema) -> Operation:
    parameters = [
        Field(p["name"], type_text(p["schema"]), p.get("required", False), p.get("description", ""), _default(p["schema"]))
        for p in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    return Operation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        tag=operation.get("tags", ["Other"])[0],
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=parameters,
        body=type_text(body) if body else "",
        replies=[_reply(status, reply) for status, reply in operation["responses"].items()],
    )


def _reply(status: str, reply: Schema) -> Reply:
    content: Schema = next(iter(reply.get("content", {}).values()), {})
    examples = [content["example"]] if "example" in content else [one["value"] for one in content.get("examples", {}).values()]
    model = type_text(content["schema"]) if content.get("schema") else ""
    return Reply(status, reply.get("description", ""), model, "\n\n".join(json.dumps(one, indent=2) for one in examples))


def _fields(schema: Schema) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield Field(name, type_text(field), name in required, field.get("description", ""), _default(field))


def type_text(schema: Schema) -> str:
    """A schema in a few words: `string or list of Turn`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return "only " + " or ".join(json.dumps(value) for value in values) if values else "not supported"
    branches = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if branches:
        return " or ".join(dict.fromkeys(type_text(branch) for branch in branches))
    if schema.get("type") == "array":
        return f"list of {type_text(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {type_text(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def _default(schema: Schema) -> str:
    value = schema.get("default")
    return "" if value is None or isinstance(value, dict | list) else json.dumps(value)
