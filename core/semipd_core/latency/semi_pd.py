"""semi-PD's latency curves, fitted online from (share, latency) points: TTFT(x) = a/(x − λ) + b, TPOT(y) = a/y + b.

A share here is the effective one in percent, 100 · speed while both lanes are busy, so that (100, 100) and (50, 50), which the
paper's x/(x + y) cannot tell apart, differ where they do differ. A curve is given only where points stand: enough of them, at
different shares, and never far outside their range. Elsewhere Eq. 1 scales the last observation.
Source: semi-PD, arXiv 2504.19867, Eq. 1–4; the constants of Eq. 1 with an offset are those of Fig. 10.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

POINTS_KEPT = 24
MIN_DISTINCT_SHARES = 3
MIN_SPAN_PERCENT = 10.0  # between the smallest and the largest share seen
MARGIN_PERCENT = 5.0  # how far beyond the shares seen a curve may be asked
DISTINCT_PERCENT = 1.0  # shares closer than this are one
FIG10_TTFT = (0.6809, 0.022)  # a per unit share, b, relative to the full device
FIG10_TPOT = (0.6284, 0.3818)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPoint:
    """A latency observed over one window at one share."""

    share_percent: float
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyCurve:
    """latency = scale/(share − λ) + offset, falling in the share; trusted within [from_percent, to_percent]."""

    scale: float  # a ≥ 0, ms · percent
    pole_percent: float  # λ ≥ 0; 0 for TPOT
    offset_ms: float  # b ≥ 0
    from_percent: float
    to_percent: float

    def latency_ms(self, share_percent: float) -> float | None:
        """None outside the trusted range: the curve refuses to extrapolate."""
        if not self.from_percent <= share_percent <= self.to_percent or share_percent <= self.pole_percent:
            return None
        return self.scale / (share_percent - self.pole_percent) + self.offset_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class SemiPdModel:
    """The latest points of both lanes."""

    ttft: tuple[LatencyPoint, ...] = ()
    tpot: tuple[LatencyPoint, ...] = ()
    eq1_ttft: tuple[float, float] = (
        FIG10_TTFT  # a, b where no curve is fitted yet; a profile has this device's
    )
    eq1_tpot: tuple[float, float] = FIG10_TPOT

    def with_ttft(self, share_percent: float, ttft_ms: float) -> SemiPdModel:
        point = LatencyPoint(share_percent=share_percent, latency_ms=ttft_ms)
        return replace(self, ttft=(*self.ttft, point)[-POINTS_KEPT:])

    def with_tpot(self, share_percent: float, tpot_ms: float) -> SemiPdModel:
        point = LatencyPoint(share_percent=share_percent, latency_ms=tpot_ms)
        return replace(self, tpot=(*self.tpot, point)[-POINTS_KEPT:])

    def predict_ttft_ms(self, share_percent: float, *, observed_ms: float, observed_percent: float) -> float:
        """By the fitted curve's ratio where it is trusted, else by Eq. 1; equals `observed_ms` at `observed_percent`."""
        return observed_ms * _ratio(fit_ttft(self.ttft), self.eq1_ttft, share_percent, observed_percent)

    def predict_tpot_ms(self, share_percent: float, *, observed_ms: float, observed_percent: float) -> float:
        return observed_ms * _ratio(fit_tpot(self.tpot), self.eq1_tpot, share_percent, observed_percent)


def fit_ttft(points: Sequence[LatencyPoint]) -> LatencyCurve | None:
    """Eq. 4, left: λ by search below the smallest share seen, a and b by least squares. None if the points do not allow it."""
    if not _are_enough(points):
        return None
    smallest = min(point.share_percent for point in points)
    candidates = [fit for step in range(20) if (fit := _fit_at_pole(points, smallest * step / 20))]
    return min(candidates, key=lambda curve: _misfit(curve, points)) if candidates else None


def fit_tpot(points: Sequence[LatencyPoint]) -> LatencyCurve | None:
    """Eq. 4, right. None if the points do not allow it."""
    return _fit_at_pole(points, 0.0) if _are_enough(points) else None


def _are_enough(points: Sequence[LatencyPoint]) -> bool:
    shares = sorted(point.share_percent for point in points)
    distinct = sum(1 for a, b in itertools.pairwise(shares) if b - a >= DISTINCT_PERCENT) + 1
    return bool(shares) and distinct >= MIN_DISTINCT_SHARES and shares[-1] - shares[0] >= MIN_SPAN_PERCENT


def _fit_at_pole(points: Sequence[LatencyPoint], pole_percent: float) -> LatencyCurve | None:
    """Least squares of latency on 1/(share − λ); None unless it falls in the share with a non-negative offset."""
    xs = [1 / (point.share_percent - pole_percent) for point in points]
    ys = [point.latency_ms for point in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    scale = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    offset_ms = mean_y - scale * mean_x
    if offset_ms < 0:
        scale = sum(x * y for x, y in zip(xs, ys, strict=True)) / sum(x * x for x in xs)
        offset_ms = 0.0
    if scale <= 0:
        return None
    shares = [point.share_percent for point in points]
    return LatencyCurve(
        scale=scale,
        pole_percent=pole_percent,
        offset_ms=offset_ms,
        from_percent=min(shares) - MARGIN_PERCENT,
        to_percent=max(shares) + MARGIN_PERCENT,
    )


def _misfit(curve: LatencyCurve, points: Sequence[LatencyPoint]) -> float:
    predicted = ((curve.latency_ms(point.share_percent), point.latency_ms) for point in points)
    return sum((latency_ms - observed) ** 2 for latency_ms, observed in predicted if latency_ms is not None)


def _ratio(
    curve: LatencyCurve | None, eq1: tuple[float, float], to_percent: float, at_percent: float
) -> float:
    if curve is not None:
        to_ms, at_ms = curve.latency_ms(to_percent), curve.latency_ms(at_percent)
        if to_ms is not None and at_ms is not None:
            return to_ms / at_ms
    a, b = eq1
    return (a * 100 / to_percent + b) / (a * 100 / at_percent + b)
