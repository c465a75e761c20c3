"""What a schema says otherwise than the wire type: keys, required keys, types, choices, ranges, texts, defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, get_args, get_origin

from crd_files import SERVERS_OWN, Schema

from semipd_core.api import model_uri, shape
from semipd_core.api.model_uri import ModelUriMark
from semipd_core.api.wire import Between, Matches, to_camel

REQUIRED = object()
MADE = object()  # by a default factory
NOT_EMPTY = r"(?s:.+)"
INT32 = 2**31 - 1
# Where the schema allows less than the wire type, because a rule of `rules.py` does.
NARROWER = {"SemiPDClass.spec.device": ["CUDA", "CPU"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a wire type and a schema meet: an object, a field, an item of a list, a value of a map."""

    root: type
    path: str
    annotation: Any
    schema: Schema
    default: object = REQUIRED

    @property
    def bare(self) -> Any:
        return shape._bare(self.annotation)

    @property
    def is_object(self) -> bool:
        return is_dataclass(self.bare)


def places(cls: type, schema: Schema) -> Iterator[Place]:
    """From the root on; fields that the schema lacks are `key_defects`."""
    root = Place(root=cls, path="", annotation=cls, schema=schema)
    yield root
    yield from _inside(root)


def _inside(place: Place) -> Iterator[Place]:
    for inner in _children(place):
        yield inner
        yield from _inside(inner)


def _children(place: Place) -> Iterator[Place]:
    if place.is_object:
        yield from _fields(place)
    elif get_origin(place.bare) is tuple:
        yield _member(place, "[]", get_args(place.bare)[0], "items")
    elif get_origin(place.bare) is Mapping:
        yield _member(place, "{}", get_args(place.bare)[1], "additionalProperties")


def _fields(place: Place) -> Iterator[Place]:
    annotations = shape.wire_fields(place.bare)
    for field in fields(place.bare):
        key = to_camel(field.name)
        schema = place.schema.get("properties", {}).get(key)
        if schema is None or (place.path == "" and key in SERVERS_OWN):
            continue
        path = shape.join(place.path, key)
        yield Place(
            root=place.root, path=path, annotation=annotations[key], schema=schema, default=_default(field)
        )


def _member(place: Place, step: str, annotation: Any, keyword: str) -> Place:
    schema = place.schema.get(keyword, {})
    return Place(root=place.root, path=place.path + step, annotation=annotation, schema=schema)


def _default(field: Field[Any]) -> object:
    if field.default is not MISSING:
        return field.default
    return REQUIRED if field.default_factory is MISSING else MADE


def key_defects(place: Place) -> Iterator[str]:
    if place.is_object:
        wire, given = set(shape.wire_fields(place.bare)), set(place.schema.get("properties", {}))
        yield from (f"lacks {key}" for key in sorted(wire - given))
        yield from (f"has {key}, the wire type has not" for key in sorted(given - wire))


def required_defects(place: Place) -> Iterator[str]:
    if not place.is_object:
        return
    wanted = {to_camel(field.name) for field in fields(place.bare) if _default(field) is REQUIRED}
    if place.path == "":
        wanted -= set(SERVERS_OWN)
    given = set(place.schema.get("required", ()))
    if wanted != given:
        yield f"requires {sorted(given)}, the wire type {sorted(wanted)}"


def keyword_defects(place: Place) -> Iterator[str]:
    wanted = _keywords(place)
    compared = {"type", "format", "enum", "minimum", "maximum", "pattern", "minLength", *wanted}
    for keyword in sorted(compared | {"x-kubernetes-int-or-string"}):
        given = place.schema.get(keyword)
        if given != wanted.get(keyword):
            yield f"{keyword} is {given}, by the wire type {wanted.get(keyword)}"


def default_defects(place: Place) -> Iterator[str]:
    if "default" in place.schema:
        yield "has a default, which would be frozen into stored objects"
    said = place.schema.get("description", "")
    words = _default_words(place.default)
    if words is None:
        yield from (f"is required, but says {word}" for word in ("Default: ", "Absent: ") if word in said)
    elif words not in said:
        yield f"does not say {words!r}"


def list_key_defects(place: Place) -> Iterator[str]:
    if get_origin(place.bare) is not tuple:
        return
    key = shape.list_key(place.annotation)
    wanted = None if key is None else [key]
    given = place.schema.get("x-kubernetes-list-map-keys")
    if given != wanted or (place.schema.get("x-kubernetes-list-type") == "map") is not (key is not None):
        yield f"x-kubernetes-list-map-keys is {given}, by the wire type {wanted}"


CHECKS: tuple[Callable[[Place], Iterator[str]], ...] = (
    key_defects,
    required_defects,
    keyword_defects,
    list_key_defects,
    default_defects,
)


def wire_defects(cls: type, schema: Schema) -> list[str]:
    return [
        f"{place.path}: {defect}"
        for place in places(cls, schema)
        for check in CHECKS
        for defect in check(place)
    ]


def _keywords(place: Place) -> dict[str, object]:
    bare = place.bare
    if set(get_args(bare)) == {str, int}:
        return {"x-kubernetes-int-or-string": True}
    if place.is_object or get_origin(bare) is Mapping:
        return {"type": "object"}
    if get_origin(bare) is tuple:
        return {"type": "array"}
    if issubclass(bare, StrEnum):
        return {"type": "string", "enum": _choices(place, bare)}
    return _of_integer(place) if issubclass(bare, int) else _of_text(place)


def _choices(place: Place, bare: type[StrEnum]) -> list[str]:
    return NARROWER.get(f"{place.root.__name__}.{place.path}", [str(member) for member in bare])


def _of_integer(place: Place) -> dict[str, object]:
    between = next((mark for mark in shape.marks(place.annotation) if isinstance(mark, Between)), None)
    if between is None:
        return {"type": "integer", "format": "int64"}
    is_small = between.high is not None and between.high <= INT32
    ends = {"minimum": between.low, "maximum": between.high}
    return {"type": "integer", "format": "int32" if is_small else "int64"} | {
        keyword: end for keyword, end in ends.items() if end is not None
    }


def _of_text(place: Place) -> dict[str, object]:
    wanted: dict[str, object] = {"type": "string"}
    for mark in shape.marks(place.annotation):
        if isinstance(mark, Matches):
            wanted["maxLength"] = mark.max_length
            wanted |= {"minLength": 1} if mark.pattern == NOT_EMPTY else {"pattern": f"^{mark.pattern}$"}
        elif isinstance(mark, ModelUriMark):
            wanted["maxLength"] = model_uri._MAX_LENGTH
    if place.path.endswith((".time", ".since", "Time")):
        wanted["format"] = "date-time"
    return wanted


def _default_words(default: object) -> str | None:
    if default is REQUIRED:
        return None
    if isinstance(default, int | StrEnum):
        return f"Default: {default}."
    return "Absent: "
