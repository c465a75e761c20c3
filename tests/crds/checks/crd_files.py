"""The CRD files as data, each beside the wire type that it describes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import SemiPDService
from semipd_core.api.service_class import SemiPDClass

Schema = Mapping[str, Any]
DIRECTORY = Path(__file__).parents[3] / "crds"
ABSENT = object()
STEPS = {"[]": "items", "{}": "additionalProperties"}
SERVERS_OWN = ("apiVersion", "kind", "metadata")  # at the root: the API server has its own rules for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Crd:
    wire_type: type
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return self.wire_type.__name__

    @property
    def version(self) -> Mapping[str, Any]:
        (version,) = self.manifest["spec"]["versions"]
        return dict(version)

    @property
    def schema(self) -> Schema:
        return dict(self.version["schema"]["openAPIV3Schema"])


def _read(wire_type: type, file: str) -> Crd:
    return Crd(wire_type=wire_type, manifest=yaml.safe_load((DIRECTORY / file).read_text()))


SERVICE = _read(SemiPDService, "semipdservices.yaml")
CLASS = _read(SemiPDClass, "semipdclasses.yaml")
PARTITION = _read(SemiPDPartition, "semipdpartitions.yaml")
CRDS = (SERVICE, CLASS, PARTITION)


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema of the tree with its path; `[]` steps into the items of a list, `{}` into the values of a map."""
    yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{key}" if path else key)
    for step, keyword in STEPS.items():
        if keyword in schema:
            yield from nodes(schema[keyword], path + step)


def node_at(schema: Schema, path: str) -> Any:
    """Raises: KeyError if the schema has no such path."""
    node = schema
    for step in re.findall(r"\[\]|\{\}|[^.\[{]+", path):
        node = node[STEPS[step]] if step in STEPS else node["properties"][step]
    return node


def broken(schema: Schema, path: str, changes: Mapping[str, Any]) -> Schema:
    """`schema` with keywords of the node at `path` set, or left out where they are ABSENT."""
    copy = deepcopy(dict(schema))
    node = node_at(copy, path)
    for keyword, value in changes.items():
        if value is ABSENT:
            del node[keyword]
        else:
            node[keyword] = value
    return copy
