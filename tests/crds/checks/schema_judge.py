"""A schema as plain JSON Schema, to judge manifests without an API server. Rules (CEL) are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastjsonschema
from crd_files import Schema

Judge = Callable[[Any], object]


def build_judge(schema: Schema) -> Judge:
    """The judge raises JsonSchemaValueException. Unknown keys are refused, as kubectl's strict validation does."""
    plain = _plain(schema)
    plain["properties"]["metadata"].pop("additionalProperties", None)
    judge: Judge = fastjsonschema.compile(plain)
    return judge


def refused_path(judge: Judge, manifest: Any) -> str | None:
    """Of a missing or unknown key: the path of the object that it should be, or is, in."""
    try:
        judge(manifest)
    except fastjsonschema.JsonSchemaValueException as refused:
        return str(refused.name).removeprefix("data").removeprefix(".")
    return None


def _plain(schema: Schema) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if "x-kubernetes-int-or-string" in schema:
        plain["type"] = ["integer", "string"]
    if plain.get("format") in ("int32", "int64"):
        del plain["format"]
    if schema.get("x-kubernetes-list-type") == "set":
        plain["uniqueItems"] = True
    if "properties" in schema:
        plain["properties"] = {key: _plain(inner) for key, inner in schema["properties"].items()}
        plain["additionalProperties"] = False
    if "items" in schema:
        plain["items"] = _plain(schema["items"])
    if "additionalProperties" in schema:
        plain["additionalProperties"] = _plain(schema["additionalProperties"])
    return plain
