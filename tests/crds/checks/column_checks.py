"""Where the JSON paths of printer columns and of the scale subresource lead in a schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from crd_files import Crd, Schema

_STEP = re.compile(
    r"""\.(?P<key>(?:\\.|[^.\[\\])+)|\[(?P<index>\d+)\]|\[\?\(@\.(?P<by>\w+)=="(?P<value>\w+)"\)\]"""
)
_METADATA = re.compile(r"\.metadata\.(creationTimestamp|annotations\..+)")
_SHOWN_AS = {"integer": "integer", "date-time": "date", "string": "string", "array": "string"}


def target(schema: Schema, json_path: str) -> Schema | None:
    """The schema that a path leads to; None if it leads nowhere."""
    node, position = schema, 0
    while position < len(json_path):
        step = _STEP.match(json_path, position)
        inner = None if step is None else _follow(node, step)
        if step is None or inner is None:
            return None
        node, position = inner, step.end()
    return node


def column_defects(crd: Crd) -> list[str]:
    columns = crd.version["additionalPrinterColumns"]
    return [
        f"{column['name']}: {defect}" for column in columns if (defect := _column_defect(crd.schema, column))
    ]


def scale_defects(crd: Crd) -> list[str]:
    scale = crd.version["subresources"].get("scale", {})
    wanted = {
        "specReplicasPath": (".spec.", "integer"),
        "statusReplicasPath": (".status.", "integer"),
        "labelSelectorPath": (".status.", "string"),
    }
    return [
        f"{name}: {scale.get(name)} is no {type_} under {start}"
        for name, (start, type_) in wanted.items()
        if not scale.get(name, "").startswith(start)
        or (target(crd.schema, scale[name]) or {}).get("type") != type_
    ]


def _follow(node: Schema, step: re.Match[str]) -> Schema | None:
    if step["key"] is not None:
        return _mapping(node.get("properties", {}).get(step["key"]))
    items = node.get("items")
    if step["by"] is not None and step["by"] not in (items or {}).get("properties", {}):
        return None
    return _mapping(items)


def _mapping(given: Any) -> Schema | None:
    return given if isinstance(given, Mapping) else None


def _column_defect(schema: Schema, column: Mapping[str, Any]) -> str | None:
    path, shown_as = column["jsonPath"], column["type"]
    if _METADATA.fullmatch(path):
        return None
    found = target(schema, path)
    if found is None:
        return f"{path} leads nowhere"
    wanted = _SHOWN_AS.get(found.get("format", ""), _SHOWN_AS.get(found.get("type", "")))
    return None if shown_as == wanted else f"shows {path} as {shown_as}, not as {wanted}"
