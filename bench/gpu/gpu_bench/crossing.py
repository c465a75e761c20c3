"""The rate at which attainment falls through 90 %: interpolated between measured rates, with a bootstrap interval. Pure.

Attainment is made monotone first (pool adjacent violators, weighted by requests): more load never helps, so a rise is noise. Then
the crossing is linear between the last rate at or above the threshold and the first below it. The interval resamples the verdicts
within each rate: what it covers is the chance of which requests came, not that of the machine.
Source: isotonic regression by pool adjacent violators, Barlow et al. (1972); percentile bootstrap, Efron (1979).
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

THRESHOLD = 0.9
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attained:
    """All runs at one rate: how many of the requests attained the SLO."""

    rate_per_s: float
    attained: int
    requests: int

    @property
    def share(self) -> float:
        return self.attained / self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """`rate_per_s` None: no rate measured keeps the threshold. `is_open`: none loses it, the goodput is at least this."""

    rate_per_s: float | None
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """95 %, of the rate; a draw without a crossing counts as the end of the measured range on its side."""

    low_per_s: float
    high_per_s: float


def find_crossing(points: Sequence[Attained], threshold: float = THRESHOLD) -> Crossing:
    """Raises: ValueError without points, or with an empty one."""
    ordered = sorted(points, key=lambda point: point.rate_per_s)
    if not ordered or any(point.requests == 0 for point in ordered):
        raise ValueError("a crossing of no points")
    shares = _falling(ordered)
    if shares[0] < threshold:
        return Crossing(rate_per_s=None)
    below = next((index for index, share in enumerate(shares) if share < threshold), None)
    if below is None:
        return Crossing(rate_per_s=ordered[-1].rate_per_s, is_open=True)
    low, high = ordered[below - 1].rate_per_s, ordered[below].rate_per_s
    part = (shares[below - 1] - threshold) / (shares[below - 1] - shares[below])
    return Crossing(rate_per_s=low + part * (high - low))


def bootstrap(
    points: Sequence[Attained], *, seed: int = 0, draws: int = DRAWS, threshold: float = THRESHOLD
) -> Interval:
    """The interval of `find_crossing`; the same points and seed give the same interval."""
    draw = random.Random(seed)
    lowest = min(point.rate_per_s for point in points)
    chances = [_chances(point) for point in points]
    found = []
    for _ in range(draws):
        drawn = [
            Attained(
                rate_per_s=point.rate_per_s,
                attained=min(bisect.bisect_left(chance, draw.random()), point.requests),
                requests=point.requests,
            )
            for point, chance in zip(points, chances, strict=True)
        ]
        rate_per_s = find_crossing(drawn, threshold).rate_per_s
        found.append(lowest if rate_per_s is None else rate_per_s)
    found.sort()
    return Interval(low_per_s=found[int(0.025 * draws)], high_per_s=found[min(draws - 1, int(0.975 * draws))])


def _falling(points: Sequence[Attained]) -> list[float]:
    """Shares made non-increasing, each the weighted mean of its pool."""
    pools: list[tuple[int, int, int]] = []  # attained, requests, points
    for point in points:
        pools.append((point.attained, point.requests, 1))
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] < pools[-1][0] * pools[-2][1]:
            attained, requests, count = pools.pop()
            before = pools.pop()
            pools.append((before[0] + attained, before[1] + requests, before[2] + count))
    return [attained / requests for attained, requests, count in pools for _ in range(count)]


def _chances(point: Attained) -> list[float]:
    """Of at most 0, 1, … attained when the point's verdicts are drawn with replacement: a binomial distribution."""
    share, requests = point.share, point.requests
    if share in (0.0, 1.0):
        return [0.0] * point.attained + [1.0]
    log_ratio = math.log(share) - math.log1p(-share)
    logs = [
        math.lgamma(requests + 1) - math.lgamma(k + 1) - math.lgamma(requests - k + 1)
        + k * log_ratio + requests * math.log1p(-share)
        for k in range(requests + 1)
    ]  # fmt: skip
    return list(itertools.accumulate(math.exp(log) for log in logs))
