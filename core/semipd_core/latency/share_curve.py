"""How fast a lane runs at a share of the device, as a fraction of its speed when it has all of it.

Two forms of one value. `TURNS`: lanes take turns (CPU), speed is the share. `saturating`: SMs in space (GPU), where speed grows
with the share up to R_sat and by λ of that rate beyond it.
Source: Nexus, arXiv 2507.06608, section on the cost model; its formula beyond R_sat is not given, this one is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semipd_core.partition import Role

MIN_FIT_PERCENTS = 3  # distinct shares
MIN_FIT_SPAN_PERCENT = 30  # between the smallest and the largest of them


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareCurve:
    """Monotone in the lane's own share, antitone in the other's."""

    saturation_percent: float = 100.0  # R_sat
    slope_beyond: float = 0.0  # λ, 0 ≤ λ < 1
    bandwidth_slowdown: float = (
        0.0  # extra time while the other lane is busy, as a fraction: shares do not split bandwidth
    )

    def __post_init__(self) -> None:
        if not 1 <= self.saturation_percent <= 100:
            raise ValueError(f"saturation_percent is {self.saturation_percent}, allowed: 1..100")
        if not 0 <= self.slope_beyond < 1:
            raise ValueError(f"slope_beyond is {self.slope_beyond}, allowed: 0 ≤ λ < 1")
        if self.bandwidth_slowdown < 0:
            raise ValueError(f"bandwidth_slowdown is {self.bandwidth_slowdown}, allowed: ≥ 0")

    def lone_speed(self, percent: float) -> float:
        """While the other lane is idle: 0 < speed ≤ 1."""
        return self._rate(percent) / self._rate(100)

    def contended_speed(self, percent: float, other_percent: float) -> float:
        """While both lanes are busy. Caps above 100 together compete in proportion; else each has its own."""
        total = percent + other_percent
        effective = percent if total <= 100 else 100 * percent / total
        return self._rate(effective) / self._rate(100) / (1 + self.bandwidth_slowdown)

    def speed(self, percent: float, other_percent: float, contention: float) -> float:
        """Over wall time of which the fraction `contention` (0..1) is spent with both lanes busy."""
        contended = self.contended_speed(percent, other_percent)
        return contention * contended + (1 - contention) * self.lone_speed(percent)

    def _rate(self, percent: float) -> float:
        saturation = self.saturation_percent
        return percent if percent <= saturation else saturation + self.slope_beyond * (percent - saturation)


TURNS = ShareCurve()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCurves:
    """How fast each role runs at its share. Prefill computes and needs most SMs, decode reads memory and is satisfied by few."""

    prefill: ShareCurve = TURNS
    decode: ShareCurve = TURNS

    def of(self, role: Role) -> ShareCurve:
        return self.decode if role is Role.DECODE else self.prefill


# Assumed until a profile of the card says otherwise. Decode: 1.76, 1.24, 1.06, 1.03 times its time at 16, 32, 64, 96 of 132 SMs
# (SGLang `multiplex/predictor.py`, H800). Prefill: 25 % less time from 30 to 40 % of the SMs, 10 % from 70 to 80 % (Nexus, L20).
ASSUMED_GPU_CURVES = RoleCurves(
    prefill=ShareCurve(saturation_percent=60, slope_beyond=0.6, bandwidth_slowdown=0.1),
    decode=ShareCurve(saturation_percent=24, slope_beyond=0.07, bandwidth_slowdown=0.1),
)


def fit_share_curve(points: Sequence[tuple[float, float]]) -> ShareCurve | None:
    """The curve closest to `points` of (share in percent, time of the same work in any unit), by relative squared error.

    None where the data do not allow it: under MIN_FIT_PERCENTS distinct shares, or within MIN_FIT_SPAN_PERCENT.
    """
    shares = {share for share, _ in points}
    if len(shares) < MIN_FIT_PERCENTS or max(shares) - min(shares) < MIN_FIT_SPAN_PERCENT:
        return None
    grid = (
        ShareCurve(saturation_percent=saturation, slope_beyond=slope / 20)
        for saturation in range(20, 101, 5)
        for slope in range(11)
    )
    return min(grid, key=lambda curve: _misfit(curve, points))


def _misfit(curve: ShareCurve, points: Sequence[tuple[float, float]]) -> float:
    """Relative squared error at the best scale: time · speed should be the same constant everywhere."""
    works = [time * curve.lone_speed(share) for share, time in points]
    mean = sum(works) / len(works)
    return sum((work / mean - 1) ** 2 for work in works)
