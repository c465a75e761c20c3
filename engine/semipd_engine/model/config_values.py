"""The keys of a Hugging Face config.json, checked as they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from semipd_core.errors import InvalidSpec
from semipd_engine.model.config import unsupported


class ConfigValues:
    """Every error names the file, the key and what it may be."""

    def __init__(self, values: Mapping[str, Any], location: str, file_name: str = "config.json") -> None:
        self._values = values
        self._location = location
        self._file_name = file_name

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """Raises: InvalidSpec unless it is a whole number from `minimum`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.invalid(key, value, f"a whole number from {minimum}")
        return value

    def positive(self, key: str, default: float) -> float:
        """Raises: InvalidSpec unless it is a finite number above 0."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.invalid(key, value, "a number above 0")
        return float(value)

    def section(self, key: str) -> Mapping[str, Any] | None:
        """None where it is missing. Raises: InvalidSpec unless it is a JSON object."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.invalid(key, value, "a JSON object")
        return value

    def token_ids(self, key: str) -> list[int]:
        """One or several, ascending. Raises: InvalidSpec unless they are whole numbers from 0."""
        value = self.get(key, [])
        tokens = value if isinstance(value, list) else [value]
        if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in tokens):
            raise self.invalid(key, value, "a whole number from 0, or a list of them")
        return sorted(set(tokens))

    def require(self, properties: Mapping[str, object]) -> None:
        """Properties that the decoder does not have, each with the value that means its absence.

        Raises: InvalidSpec for any other value.
        """
        for key, value in properties.items():
            if self.get(key, value) != value:
                raise unsupported(key, self._values[key], str(value))

    def invalid(self, key: str, value: object, allowed: str) -> InvalidSpec:
        given = f"{self._location}/{self._file_name} with {key} {value!r}"
        return InvalidSpec("spec.model.uri", given, allowed)
