"""Values on the command line, refused in the same words as those of a service file."""

from __future__ import annotations

from collections.abc import Callable

from semipd_core.errors import InvalidSpec

FACTOR_MIN, FACTOR_MAX = 0.001, 100.0


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


def factor(flag: str) -> Callable[[str], float]:
    """As `integer`, for what scales a trace."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not FACTOR_MIN <= value <= FACTOR_MAX:
            raise InvalidSpec(flag, text, f"a number {FACTOR_MIN:g}..{FACTOR_MAX:g}")
        return value

    return convert
