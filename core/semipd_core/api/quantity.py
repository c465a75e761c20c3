"""Kubernetes quantities: `40Gi`, `"4"`, `500m`, exact, without floats.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from semipd_core.errors import InvalidSpec

_FORM = re.compile(
    r"(\d{1,20}(?:\.\d{0,9})?|\.\d{1,9})(Ki|Mi|Gi|Ti|Pi|Ei|m|k|M|G|T|P|E|[eE][+-]?\d{1,2})?", re.ASCII
)
_FACTORS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{suffix: Fraction(1000) ** (power + 1) for power, suffix in enumerate("kMGTPE")},
    **{f"{suffix}i": Fraction(1024) ** (power + 1) for power, suffix in enumerate("KMGTPE")},
}
_LARGEST = 2**63 - 1
_BYTES = "a positive quantity of bytes such as 40Gi, 512Mi, 2G"
_CPUS = 'a positive quantity of CPUs such as "4", 500m, 1.5'


def parse_bytes(given: str | int, path: str) -> int:
    """Bytes, rounded up.

    Raises: InvalidSpec if `given` is no quantity, is not positive or is beyond 2^63 - 1.
    """
    return _rounded_up(given, Fraction(1), path, _BYTES)


def parse_millicpus(given: str | int, path: str) -> int:
    """Thousandths of a CPU, rounded up.

    Raises: InvalidSpec as for `parse_bytes`.
    """
    return _rounded_up(given, Fraction(1000), path, _CPUS)


def _rounded_up(given: str | int, scale: Fraction, path: str, allowed: str) -> int:
    value = _parse(given)
    if value is None or not 0 < value <= _LARGEST:
        raise InvalidSpec(path, given, allowed)
    scaled = value * scale
    return -(-scaled.numerator // scaled.denominator)


def _parse(given: str | int) -> Fraction | None:
    if isinstance(given, int):
        return Fraction(given)
    match = _FORM.fullmatch(given)
    if match is None:
        return None
    number, suffix = match[1], match[2] or ""
    if suffix in _FACTORS:
        return Fraction(number) * _FACTORS[suffix]
    return Fraction(number) * Fraction(10) ** int(suffix[1:])


@dataclass(frozen=True, slots=True)
class MemoryMark:
    """Mark of a field that holds bytes."""

    allowed: str = _BYTES

    def refusal(self, value: object) -> str | None:
        return None if _is_positive(value) else self.allowed


@dataclass(frozen=True, slots=True)
class CpuMark:
    """Mark of a field that holds CPUs."""

    allowed: str = _CPUS

    def refusal(self, value: object) -> str | None:
        return None if _is_positive(value) else self.allowed


def _is_positive(value: object) -> bool:
    if not isinstance(value, str | int):
        return False
    parsed = _parse(value)
    return parsed is not None and 0 < parsed <= _LARGEST
