"""A manifest that must be refused, with the field and the words: by the decoder, by the schema, and by an API server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from changed_manifest import changed

API = "semipd.io/v1alpha1"
BASES: Mapping[str, Mapping[str, Any]] = {
    "SemiPDService": {
        "apiVersion": API,
        "kind": "SemiPDService",
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"model": {"uri": "builtin://smollm2-135m"}},
    },
    "SemiPDClass": {"apiVersion": API, "kind": "SemiPDClass", "metadata": {"name": "standard"}, "spec": {}},
    "SemiPDPartition": {
        "apiVersion": API,
        "kind": "SemiPDPartition",
        "metadata": {"name": "chat-7d9f.0", "namespace": "default"},
        "spec": {"target": {"prefillPercent": 80, "decodePercent": 100}, "decisionID": "7"},
    },
}
# Words of the API server.
INTEGER = "must be of type int"  # "integer" or "int32"
TEXT, OBJECT, QUANTITY = "must be of type string", "must be of type object", "must be of type integer,string"
REQUIRED, CHOICE, PATTERN = "Required value", "Unsupported value", "should match '^"


class By(StrEnum):
    """What refuses it in an API server."""

    SCHEMA = "schema"  # types, ranges, patterns, kinds of lists: in words of its own
    RULE = "rule"  # CEL: in the decoder's words
    KEYS = "keys"  # two items of a list with the same key: in words of its own, and no keyword of JSON Schema
    STRICT = "strict"  # an unknown key; kubectl asks for strict field validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    id: str
    kind: str
    changes: Mapping[str, object]  # by dotted path
    path: str  # of the field that the error names
    words: str  # in the API server's error
    by: By

    @property
    def manifest(self) -> dict[str, Any]:
        return changed(BASES[self.kind], self.changes)


def bad(
    id_: str, path: str, value: object, words: str, by: By = By.SCHEMA, *, at: str = "", kind: str = "Service"
) -> Bad:
    """`at`: the path that the error names, where it is not the one that is set."""
    return Bad(id=id_, kind=f"SemiPD{kind}", changes={path: value}, path=at or path, words=words, by=by)
