"""Online least squares for latencies: few features, relative errors, no negative coefficient.

A latency grows with each of its features, so a fit with a negative coefficient is a fit to noise: that feature is left out.
Old points fade, because the model follows the machine that it runs on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul

RETENTION = 0.998  # weight left to a point by each later one: about 500 points count
RIDGE = 1e-4  # of the feature's own sum of squares; splits evenly what the data cannot tell apart
MIN_WEIGHT = 8.0  # points, faded ones in part
MAX_RELATIVE_ERROR = 0.5  # root mean square

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFit:
    """Sums over points (features, value), each divided by its value, so that errors are relative."""

    gram: tuple[Vector, ...]  # (features, features)
    moment: Vector  # (features,)
    weight: float = 0.0

    @classmethod
    def empty(cls, num_features: int) -> LinearFit:
        zeros = (0.0,) * num_features
        return cls(gram=(zeros,) * num_features, moment=zeros)

    def updated(self, features: Sequence[float], value: float) -> LinearFit:
        """With one more point.

        Raises: ValueError if `value` is not positive or the number of features differs.
        """
        return self.extended([(features, value)])

    def extended(self, points: Iterable[tuple[Sequence[float], float]]) -> LinearFit:
        """With more points, (features, value) each, in the order in which they are to fade. Raises: as `updated`."""
        points = list(points)
        for features, value in points:
            if value <= 0:
                raise ValueError(f"value is {value}, allowed: > 0")
            if len(features) != len(self.moment):
                raise ValueError(f"{len(features)} features, allowed: {len(self.moment)}")
        size, left, fading = range(len(self.moment)), RETENTION ** len(points), _fading(len(points))
        relative = [[features[i] / value for features, value in points] for i in size]
        faded = [list(map(mul, column, fading)) for column in relative]
        products = {(i, j): sum(map(mul, faded[i], relative[j])) for i in size for j in size if i <= j}
        return LinearFit(
            gram=tuple(
                tuple(left * self.gram[i][j] + products[min(i, j), max(i, j)] for j in size) for i in size
            ),
            moment=tuple(left * self.moment[i] + sum(faded[i]) for i in size),
            weight=left * self.weight + sum(fading),
        )

    def coefficients(self) -> Vector:
        """One per feature, each ≥ 0; 0 where the data show no growth."""
        active = [index for index in range(len(self.moment)) if self.gram[index][index] > 0]
        while active:
            solution = self._solve(active)
            worst = min(range(len(active)), key=lambda index: solution[index])
            if solution[worst] >= 0:
                values = dict(zip(active, solution, strict=True))
                return tuple(values.get(index, 0.0) for index in range(len(self.moment)))
            del active[worst]
        return (0.0,) * len(self.moment)

    def relative_error(self) -> float:
        """Root mean square over the points that count; 0 without any."""
        if self.weight == 0:
            return 0.0
        c = self.coefficients()
        size = range(len(c))
        linear = sum(c[i] * self.moment[i] for i in size)
        square = sum(c[i] * c[j] * self.gram[i][j] for i in size for j in size)
        return math.sqrt(max(0.0, self.weight - 2 * linear + square) / self.weight)

    @property
    def is_trusted(self) -> bool:
        """Whether there are enough points and they lie on the line."""
        return self.weight >= MIN_WEIGHT and self.relative_error() <= MAX_RELATIVE_ERROR

    def _solve(self, active: Sequence[int]) -> list[float]:
        ridged = [
            [self.gram[i][j] * (1 + RIDGE if i == j else 1) for j in active] + [self.moment[i]]
            for i in active
        ]
        return _eliminate(ridged)


@lru_cache(maxsize=256)
def _fading(points: int) -> Vector:
    """What each of them still weighs when the last has come."""
    return tuple(RETENTION**age for age in reversed(range(points)))


def _eliminate(rows: list[list[float]]) -> list[float]:
    """Solve by Gauss with pivots; `rows` is (n, n + 1), positive definite thanks to the ridge, and is used up."""
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(column + 1, size):
            factor = rows[row][column] / rows[column][column]
            rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    solution = [0.0] * size
    for row in reversed(range(size)):
        known = sum(rows[row][column] * solution[column] for column in range(row + 1, size))
        solution[row] = (rows[row][size] - known) / rows[row][row]
    return solution
