"""The way in and out of the API types: plain mappings (from YAML or JSON) to checked values and back.

Every defect raises `InvalidSpec` with the path of the field, and it is always the same one: `apiVersion` and `kind` first, then
unknown keys, then wrong types, then values out of range, then rules across fields, each in order of declaration.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from semipd_core.api import rules, shape
from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import SemiPDService, ServiceStatus
from semipd_core.api.service_class import SemiPDClass
from semipd_core.errors import InvalidSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_T = TypeVar("_T", SemiPDService, SemiPDClass, SemiPDPartition)
_UNKNOWN_KEY = "unexpected_keyword_argument"
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def decode_service(given: object) -> SemiPDService:
    """Raises: InvalidSpec."""
    return _decode(SemiPDService, given, rules.service_defect)


def read_service(found: Mapping[str, Any]) -> SemiPDService:
    """As an API server gives it: the spec as strictly as ever; of the status what this release knows, none that it cannot read.

    A release that led for a while may have written more. Raises: InvalidSpec, of what the user has written.
    """
    try:
        return decode_service(found)
    except InvalidSpec:
        written = {key: value for key, value in found.items() if key != "status"}
        service = decode_service(written)
    status = shape.known_part(found.get("status"), ServiceStatus)
    try:
        return decode_service({**written, "status": status})
    except InvalidSpec:
        return service


def decode_class(given: object) -> SemiPDClass:
    """Raises: InvalidSpec."""
    return _decode(SemiPDClass, given, rules.class_defect)


def decode_partition(given: object) -> SemiPDPartition:
    """Raises: InvalidSpec."""
    return _decode(SemiPDPartition, given, rules.partition_defect)


def read_partition(found: object) -> SemiPDPartition:
    """As an API server gives it: the CRD may be newer, and a field that this release does not know is left out.

    Raises: InvalidSpec.
    """
    return decode_partition(shape.known_part(found, SemiPDPartition))


def encode(value: object) -> dict[str, Any]:
    """An object, or a part of one, as a mapping ready for YAML or JSON: all defaults filled in, absent fields left out."""
    encoded: dict[str, Any] = _adapter(type(value)).dump_python(
        value, mode="json", by_alias=True, exclude_none=True
    )
    return encoded


def _decode(cls: type[_T], given: object, find_defect: Callable[[_T], InvalidSpec | None]) -> _T:
    try:
        # JSON is where pydantic is strict about integers and still reads enums and mappings.
        value: _T = _adapter(cls).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise _from_pydantic(cls, given, error.errors(include_url=False)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidSpec(
            cls.__name__, shape.shown(given), f"plain mappings, lists and scalars ({error})"
        ) from None
    refused = shape.first_refused(value, cls)
    if refused is not None:
        path, refused_value, allowed = refused
        raise InvalidSpec(path, shape.shown(refused_value), allowed)
    defect = find_defect(value)
    if defect is not None:
        raise defect
    return value


def _from_pydantic(cls: type, given: object, details: list[ErrorDetails]) -> InvalidSpec:
    detail = min(details, key=_rank)  # the first of the lowest rank
    location = detail["loc"]
    if detail["type"] == _UNKNOWN_KEY:
        return _unknown_key(cls, location)
    path, annotation = shape.descend(cls, location)
    allowed = shape.describe(annotation)
    if detail["type"] == "missing":
        return InvalidSpec(path, shape.NOTHING, f"{allowed} (required)")
    value = given if not location else detail["input"]
    return InvalidSpec(path or cls.__name__, shape.shown(value), allowed)


def _rank(detail: ErrorDetails) -> int:
    if detail["loc"] in {("apiVersion",), ("kind",)}:
        return 0
    return 1 if detail["type"] == _UNKNOWN_KEY else 2


def _unknown_key(cls: type, location: tuple[int | str, ...]) -> InvalidSpec:
    path, annotation = shape.descend(cls, location[:-1])
    key = str(location[-1])
    keys = shape.keys_of(annotation)
    nearest = difflib.get_close_matches(key, keys, n=1)
    allowed = f"{nearest[0]} (the nearest of the keys here)" if nearest else ", ".join(keys)
    return InvalidSpec(shape.join(path, key), shape.UNKNOWN_KEY, allowed)
