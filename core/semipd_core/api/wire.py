"""What makes a class a wire type, and the marks that say which values of a field are allowed.

Types and nesting are checked by pydantic (`codec`), marks by `shape`. A mark stands in the annotation:
`Annotated[int, Between(1, 100)]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, dataclass_transform

_T = TypeVar("_T")
_INITIALISMS = {"id": "ID"}  # upper-case as in Kubernetes (`providerID`), unless they come first


def to_camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(_INITIALISMS.get(part, part.capitalize()) for part in rest)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def wire(cls: type[_T]) -> type[_T]:
    """A frozen, slotted, keyword-only dataclass, camelCase on the wire, that refuses unknown keys."""
    made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "alias_generator": to_camel}  # type: ignore[attr-defined]
    return made


class Mark(Protocol):
    """A test of one value."""

    @property
    def allowed(self) -> str:
        """The words for what passes."""
        ...

    def refusal(self, value: object) -> str | None:
        """What would be allowed in place of `value`; None if it passes."""
        ...


@dataclass(frozen=True, slots=True)
class Between:
    """An integer, both ends included; `high` None is open."""

    low: int
    high: int | None = None

    @property
    def allowed(self) -> str:
        return (
            f"an integer of {self.low} or more"
            if self.high is None
            else f"an integer {self.low}..{self.high}"
        )

    def refusal(self, value: object) -> str | None:
        fits = isinstance(value, int) and self.low <= value and (self.high is None or value <= self.high)
        return None if fits else self.allowed


@dataclass(frozen=True, slots=True)
class Matches:
    """A string that matches `pattern` as a whole and is no longer than `max_length` characters."""

    pattern: str
    allowed: str
    max_length: int = 253

    def refusal(self, value: object) -> str | None:
        fits = isinstance(value, str) and len(value) <= self.max_length
        return None if fits and re.fullmatch(self.pattern, str(value)) else self.allowed


@dataclass(frozen=True, slots=True)
class Keyed:
    """Mark of a list of objects in which no two have the same `key` (a wire key), as in a list of the kind `map`."""

    key: str
