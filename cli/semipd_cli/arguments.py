"""Values on the command line, refused in the same words as those of a service file."""

from __future__ import annotations

from collections.abc import Callable

from semipd_core.errors import InvalidSpec


def integer(flag: str, low: int, high: int) -> Callable[[str], int]:
    """A converter for argparse. Raises (the converter): InvalidSpec naming `flag`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise InvalidSpec(flag, text, f"an integer {low}..{high}")
        return value

    return convert


def seconds(flag: str, low: float, high: float) -> Callable[[str], float]:
    """As `integer`, for seconds with a fraction."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise InvalidSpec(flag, text, f"seconds {low:g}..{high:g}")
        return value

    return convert
