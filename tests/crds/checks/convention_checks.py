"""What a schema does against the conventions of this API, whatever the wire types say (reference: Kubernetes API conventions)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crd_files import SERVERS_OWN, Schema, nodes

KEYWORDS = {
    "description",
    "type",
    "format",
    "enum",
    "minimum",
    "maximum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "properties",
    "items",
    "additionalProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-validations",
}
TYPES = {"object", "array", "string", "integer"}  # no floats, no booleans
FREE_MAPS = {"nodeSelector"}  # maps whose keys users choose
UNITS = {"Percent": "percent", "Permille": "permille", "Milliseconds": "milliseconds", "Seconds": "seconds"}
BAD_NAMES = ("phase", "timestamp", "reference", "duration", "enabled")


def keyword_defects(_path: str, schema: Schema) -> Iterator[str]:
    yield from (f"{keyword} is no keyword here" for keyword in sorted(set(schema) - KEYWORDS))


def type_defects(_path: str, schema: Schema) -> Iterator[str]:
    type_ = schema.get("type", "string" if "x-kubernetes-int-or-string" in schema else None)
    if type_ not in TYPES:
        yield f"type {type_} is not one of {', '.join(sorted(TYPES))}"
    if schema.get("format") not in (None, "int32", "int64", "date-time"):
        yield f"format {schema['format']} is not allowed"
    if type_ == "integer" and "format" not in schema:
        yield "an integer without int32 or int64"


def description_defects(path: str, schema: Schema) -> Iterator[str]:
    said = schema.get("description", "")
    if path != "metadata" and not said.rstrip().endswith("."):
        yield "no description that ends in a full stop"
    for suffix, unit in UNITS.items():
        if path.endswith(suffix) and unit not in said.lower():
            yield f"the description does not name the unit, {unit}"


def text_defects(path: str, schema: Schema) -> Iterator[str]:
    is_text = schema.get("type") == "string" or "x-kubernetes-int-or-string" in schema
    if is_text and path not in SERVERS_OWN and not {"maxLength", "enum"} & set(schema):
        yield "a text without maxLength"


def list_defects(path: str, schema: Schema) -> Iterator[str]:
    if schema.get("type") != "array":
        return
    if "maxItems" not in schema:
        yield "a list without maxItems"
    if schema.get("x-kubernetes-list-type") not in ("atomic", "set", "map"):
        yield "a list without x-kubernetes-list-type"
    keys = schema.get("x-kubernetes-list-map-keys", [])
    if schema.get("x-kubernetes-list-type") == "map" and not keys:
        yield "a keyed list without keys"
    yield from (f"key {key} may be absent" for key in keys if key not in schema["items"].get("required", []))
    if path.endswith("conditions") and keys != ["type"]:
        yield "conditions are keyed by type"


def map_defects(path: str, schema: Schema) -> Iterator[str]:
    if "additionalProperties" not in schema:
        return
    if path.rpartition(".")[2] not in FREE_MAPS:
        yield "a map with keys of the user's choice"
    if "maxProperties" not in schema:
        yield "a map without maxProperties"


def whole_defects(path: str, schema: Schema) -> Iterator[str]:
    """A reference or a split is one value: two writers must not own a half of it each."""
    keys = set(schema.get("properties", {}))
    is_split = (
        bool(keys)
        and all(key.endswith("Percent") for key in keys)
        and keys == set(schema.get("required", ()))
    )
    if (is_split or path.endswith("Ref")) and schema.get("x-kubernetes-map-type") != "atomic":
        yield "one value, but not atomic"


def name_defects(path: str, _schema: Schema) -> Iterator[str]:
    name = path.rpartition(".")[2].lower()
    yield from (f"{word} in a name" for word in BAD_NAMES if word in name)


CHECKS: tuple[Callable[[str, Schema], Iterator[str]], ...] = (
    keyword_defects,
    type_defects,
    description_defects,
    text_defects,
    list_defects,
    map_defects,
    whole_defects,
    name_defects,
)


def convention_defects(schema: Schema) -> list[str]:
    return [
        f"{path}: {defect}"
        for path, node in nodes(schema)
        for check in CHECKS
        for defect in check(path, node)
    ]
