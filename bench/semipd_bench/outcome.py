"""What became of a request as its client saw it, and what many outcomes say about an SLO.

Pure. The definition of attainment is the design's: TTFT and the request's own TPOT at or under their targets; failed
requests count as missed; a request of one token is judged by TTFT alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semipd_core.telemetry import SloTargets

CANCELLED = "cancelled"  # the error of a request that its own client gave up


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request. Times in seconds since the load's start; `token_s` holds one entry per chunk with text."""

    index: int
    planned_s: float  # when the trace wanted it sent
    sent_s: float
    prompt_tokens: int
    wanted_tokens: int
    output_tokens: int  # received
    token_s: tuple[float, ...]
    status: int | None  # HTTP; None: no answer
    error: str | None  # None: complete

    @property
    def is_complete(self) -> bool:
        return self.error is None

    @property
    def is_cancelled(self) -> bool:
        return self.error == CANCELLED

    @property
    def ttft_ms(self) -> float | None:
        return (self.token_s[0] - self.sent_s) * 1e3 if self.token_s else None

    @property
    def tpot_ms(self) -> float | None:
        """(last - first) / (tokens - 1); None for fewer than two tokens."""
        if self.output_tokens < 2 or not self.token_s:
            return None
        return (self.token_s[-1] - self.token_s[0]) * 1e3 / (self.output_tokens - 1)

    def gaps(self) -> Iterable[tuple[float, float]]:
        """(start, end) of each pause between two chunks, in seconds."""
        return zip(self.token_s, self.token_s[1:], strict=False)

    def attains(self, slo: SloTargets) -> bool:
        if not self.is_complete or self.ttft_ms is None or self.ttft_ms > slo.ttft_ms:
            return False
        return self.tpot_ms is None or self.tpot_ms <= slo.tpot_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    p50: float
    p90: float
    p99: float


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value with at least `percent` of all values at or under it.

    Raises: ValueError if there are none.
    """
    if not values:
        raise ValueError("a percentile of no values")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """None where there are no values."""
    if not values:
        return None
    return Percentiles(p50=percentile(values, 50), p90=percentile(values, 90), p99=percentile(values, 99))


def ttfts_ms(outcomes: Iterable[Outcome]) -> list[float]:
    return [o.ttft_ms for o in outcomes if o.ttft_ms is not None]


def tpots_ms(outcomes: Iterable[Outcome]) -> list[float]:
    return [o.tpot_ms for o in outcomes if o.tpot_ms is not None]


def attainment_permille(outcomes: Sequence[Outcome], slo: SloTargets) -> int | None:
    """None where nothing was asked."""
    if not outcomes:
        return None
    return round(1000 * sum(o.attains(slo) for o in outcomes) / len(outcomes))


def quarters(outcomes: Iterable[Outcome], duration_s: float) -> tuple[list[Outcome], ...]:
    """Outcomes by the quarter of the run in which they were due."""
    parts: tuple[list[Outcome], ...] = ([], [], [], [])
    for outcome in outcomes:
        parts[min(int(4 * outcome.planned_s / duration_s), 3)].append(outcome)
    return parts
