"""Mergeable latency histograms: sparse {bucket index: count} over logarithmic buckets.

Bucket 0 holds everything up to FLOOR_MS; bucket i > 0 holds (FLOOR_MS·GAMMA^(i−1), FLOOR_MS·GAMMA^i]. A bucket stands for the
value whose relative distance to both of its ends is the same, RELATIVE_ERROR.
Source: DDSketch, arXiv 1908.10693, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

RELATIVE_ERROR = 0.025
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
FLOOR_MS = 0.1  # finer than any latency that a target is set for

_LOG_GAMMA = math.log(GAMMA)


def bucket_of(value_ms: float) -> int:
    """The index of the bucket that holds `value_ms`; values under FLOOR_MS, negative ones too, go to bucket 0."""
    if value_ms <= FLOOR_MS:
        return 0
    return max(1, math.ceil(math.log(value_ms / FLOOR_MS) / _LOG_GAMMA))


def value_of(bucket: int) -> float:
    """The value in milliseconds that `bucket` stands for, within RELATIVE_ERROR of all that it holds."""
    if bucket == 0:
        return FLOOR_MS
    return 2 * FLOOR_MS * math.exp(bucket * _LOG_GAMMA) / (GAMMA + 1)


def add(histogram: dict[int, int], value_ms: float) -> None:
    """Count `value_ms` in place."""
    bucket = bucket_of(value_ms)
    histogram[bucket] = histogram.get(bucket, 0) + 1


def merge(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The sum of `histograms`; associative and commutative."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def percentile(histogram: Mapping[int, int], percent: float) -> float | None:
    """The value at nearest rank `percent` (0 < percent ≤ 100) in milliseconds, within RELATIVE_ERROR; None if empty."""
    total = sum(histogram.values())
    if total == 0:
        return None
    rank = max(1, math.ceil(total * percent / 100))
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= rank:
            return value_of(bucket)
    raise AssertionError("a rank is at most the total")
