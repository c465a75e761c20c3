"""The wire types as a tree of fields: what stands at a path, which words describe it, which value breaks a mark."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from semipd_core.api.wire import Keyed, Mark, to_camel

_PLAIN = {str: "a string", int: "an integer", bool: "true or false", object: "anything"}


class Words(str):
    """Text that stands for a value in an error: shown as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


NOTHING = Words("nothing")
UNKNOWN_KEY = Words("an unknown key")
_LONGEST_SHOWN = 80  # characters of a given value


def shown(value: object) -> object:
    """`value` as an error shows it: containers and long text are cut short."""
    if isinstance(value, dict):
        return Words("a mapping")
    if isinstance(value, list | tuple):
        return Words("a list")
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return Words(repr(value[:_LONGEST_SHOWN]) + "…")
    return value


@cache
def wire_fields(cls: type) -> Mapping[str, Any]:
    """Annotation by wire key, in order of declaration."""
    hints = get_type_hints(cls, include_extras=True)
    return {to_camel(field.name): hints[field.name] for field in fields(cls)}


def descend(cls: type, location: Sequence[str | int]) -> tuple[str, Any]:
    """Path and annotation at `location`, cut where the tree of types ends (inside a union, say)."""
    path, annotation = "", cls
    for step in location:
        inner = _step(annotation, step)
        if inner is None:
            break
        path = join(path, step)
        annotation = inner
    return path, annotation


def join(path: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else step


def keys_of(annotation: Any) -> list[str]:
    """The keys of a wire type, optional or not."""
    return list(wire_fields(_bare(annotation)))


def known_part(given: Any, annotation: Any) -> Any:
    """Plain `given` without the keys that the wire type at `annotation` does not have, at any depth."""
    bare = _bare(annotation)
    if isinstance(given, Mapping) and isinstance(bare, type) and is_dataclass(bare):
        known = wire_fields(bare)
        return {key: known_part(value, known[key]) for key, value in given.items() if key in known}
    if isinstance(given, list) and get_origin(bare) is tuple:
        return [known_part(item, get_args(bare)[0]) for item in given]
    return given


def _step(annotation: Any, step: str | int) -> Any:
    bare = _bare(annotation)
    if is_dataclass(bare):
        return wire_fields(bare).get(str(step)) if isinstance(bare, type) else None
    if get_origin(bare) is tuple and isinstance(step, int):
        return get_args(bare)[0]
    if get_origin(bare) is Mapping:
        return get_args(bare)[1]
    return None


def _bare(annotation: Any) -> Any:
    """The annotation without `| None` and without marks."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        return _bare(inner[0]) if len(inner) == 1 else annotation
    return annotation


def marks(annotation: Any) -> Iterator[Mark]:
    """Tests of the value itself."""
    if get_origin(annotation) is Annotated:
        yield from (mark for mark in get_args(annotation)[1:] if not isinstance(mark, Keyed))
    elif get_origin(annotation) in (Union, types.UnionType):
        for arg in get_args(annotation):
            yield from marks(arg)


def list_key(annotation: Any) -> str | None:
    """The wire key by which a list tells its items apart; None if it does not."""
    if get_origin(annotation) is not Annotated:
        return None
    return next((mark.key for mark in get_args(annotation)[1:] if isinstance(mark, Keyed)), None)


def describe(annotation: Any) -> str:
    """What is allowed at a field of this type."""
    mark = next(marks(annotation), None)
    if mark is not None:
        return mark.allowed
    bare = _bare(annotation)
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        return "one of " + ", ".join(bare)
    if get_origin(bare) is Literal:
        return ", ".join(map(str, get_args(bare)))
    if get_origin(bare) is tuple:
        return f"a list of {describe(get_args(bare)[0])}"
    if get_origin(bare) is Mapping:
        return "a mapping of strings to strings" if _bare(get_args(bare)[1]) is str else "a mapping"
    if is_dataclass(bare) and isinstance(bare, type):
        return "a mapping with the keys " + ", ".join(wire_fields(bare))
    return _PLAIN.get(bare, "another value")


def first_refused(value: Any, annotation: Any, path: str = "") -> tuple[str, object, str] | None:
    """Path, value and allowed of the first value, in order of fields, that breaks a mark."""
    if value is None:
        return None
    for mark in marks(annotation):
        allowed = mark.refusal(value)
        if allowed is not None:
            return path, value, allowed
    repeated = _repeated(value, annotation)
    if repeated is not None:
        index, key, text = repeated
        return join(path, index), text, f"a {key} that no item before it has"
    for step, item, inner in _children(value, annotation):
        refused = first_refused(item, inner, join(path, step))
        if refused is not None:
            return refused
    return None


def _repeated(value: Any, annotation: Any) -> tuple[int, str, str] | None:
    """Index, key and its value of the first item whose key an item before it has."""
    key = list_key(annotation)
    if key is None:
        return None
    seen = set()
    for index, item in enumerate(value):
        text = next(getattr(item, field.name) for field in fields(item) if to_camel(field.name) == key)
        if text in seen:
            return index, key, text
        seen.add(text)
    return None


def _children(value: Any, annotation: Any) -> Iterator[tuple[str | int, Any, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        for field, (key, inner) in zip(fields(value), wire_fields(type(value)).items(), strict=True):
            yield key, getattr(value, field.name), inner
    elif isinstance(value, tuple):
        (inner, *_) = get_args(_bare(annotation))
        for index, item in enumerate(value):
            yield index, item, inner
    elif get_origin(_bare(annotation)) is Mapping:
        inner = get_args(_bare(annotation))[1]
        for key, item in value.items():
            yield key, item, inner
