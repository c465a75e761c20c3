"""A share curve fitted from traffic: what a card is assumed to do, corrected by the steps that it has taken at several shares.

Costs and curve are fitted together. At one pair of shares a curve is one factor of all wall times, so each condition keeps one
sum of its points, and any candidate's error follows from those sums: a sample costs one update, no fit looks at samples again.
Candidates are `ShareCurve`s of a grid, hence never slower with more SMs, and each pays for its distance from the assumed one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from semipd_core.latency.least_squares import MIN_WEIGHT, LinearFit, Vector
from semipd_core.latency.share_curve import MIN_FIT_PERCENTS, MIN_FIT_SPAN_PERCENT, ShareCurve

LEVELS = 4  # of contention, beside none
CONDITIONS_KEPT = 64  # the newest: green contexts have 8 splits, with each of the levels
FIRST_FIT, FIT_EVERY = 64, 2048  # points; between the two, each time that there are twice as many
SATURATIONS = tuple(range(20, 101, 10))
SLOPES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
SLOWDOWNS = (0.0, 0.1, 0.2, 0.4, 0.8)
NOISE = 0.05  # relative, of a step's time at the least: smaller errors are no evidence
PRIOR = 4.0  # what a distance of one costs, in squared standard errors
PRIOR_UNITS = (20.0, 0.2, 0.1)  # of saturation, slope and slowdown: a distance of one


class Condition(NamedTuple):
    """Under which steps were taken: caps in percent, and how much of the time the other lane was busy, 0..LEVELS."""

    own: int
    other: int
    level: int

    def speed(self, curve: ShareCurve) -> float:
        return curve.speed(self.own, self.other, self.level / LEVELS)

    @property
    def effective_percent(self) -> float:
        """The share that the curve is read at, lanes that compete having their proportion."""
        total = self.own + self.other
        return 100 * self.own / total if self.level and total > 100 else self.own


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveLearner:
    """Of one phase. `curve` is the assumed one until MIN_FIT_PERCENTS distinct shares, far enough apart, have been seen."""

    assumed: ShareCurve
    curve: ShareCurve
    sums: Mapping[Condition, LinearFit] = field(default_factory=dict)  # of wall time; the newest last
    points: int = 0
    fitted_at: int = 0  # points

    @classmethod
    def starting_at(cls, assumed: ShareCurve) -> CurveLearner:
        return cls(assumed=assumed, curve=assumed)

    def extended(self, points: Iterable[tuple[Condition, Vector, float]]) -> CurveLearner:
        """With more points: condition, features, wall time > 0."""
        by_condition: dict[Condition, list[tuple[Vector, float]]] = {}
        for condition, features, wall in points:
            by_condition.setdefault(condition, []).append((features, wall))
        sums = dict(self.sums)
        for condition, found in by_condition.items():
            before = sums.pop(condition, None) or LinearFit.empty(len(found[0][0]))
            sums[condition] = before.extended(found)
        sums = dict(list(sums.items())[-CONDITIONS_KEPT:])
        return replace(self, sums=sums, points=self.points + sum(map(len, by_condition.values())))

    @property
    def is_due(self) -> bool:
        """Whether there is enough news for a fit, which takes some milliseconds."""
        return self.points - self.fitted_at >= min(max(self.fitted_at, FIRST_FIT), FIT_EVERY)

    def fitted(self) -> CurveLearner:
        """With the candidate of least cost, or the assumed curve where the shares seen do not tell."""
        learner = replace(self, fitted_at=self.points)
        if not self._tells_shares:
            return replace(learner, curve=self.assumed)
        slowdowns = SLOWDOWNS if self._tells_slowdown else ()
        best = self.assumed
        for _ in range(2 if slowdowns else 1):
            shapes = [
                replace(best, saturation_percent=float(saturation), slope_beyond=slope)
                for saturation in SATURATIONS
                for slope in SLOPES
            ]
            best = self._cheapest([self.assumed, best, *shapes])
            best = self._cheapest([best, *(replace(best, bandwidth_slowdown=each) for each in slowdowns)])
        return replace(learner, curve=best)

    def costs(self, curve: ShareCurve) -> LinearFit:
        """Lone costs of a step under `curve`, from all conditions."""
        fits = [(fit, condition.speed(curve)) for condition, fit in self.sums.items()]
        size = range(len(fits[0][0].moment))
        return LinearFit(
            gram=tuple(
                tuple(sum(fit.gram[i][j] / speed**2 for fit, speed in fits) for j in size) for i in size
            ),
            moment=tuple(sum(fit.moment[i] / speed for fit, speed in fits) for i in size),
            weight=sum(fit.weight for fit, _ in fits),
        )

    @property
    def _tells_shares(self) -> bool:
        shares = {round(each.effective_percent) for each in self._proven}
        return len(shares) >= MIN_FIT_PERCENTS and max(shares) - min(shares) >= MIN_FIT_SPAN_PERCENT

    @property
    def _tells_slowdown(self) -> bool:
        """Alone and beside the other lane: without both it cannot be told from the costs."""
        levels = {each.level for each in self._proven}
        return 0 in levels and max(levels) > LEVELS // 2

    @property
    def _proven(self) -> list[Condition]:
        return [condition for condition, fit in self.sums.items() if fit.weight >= MIN_WEIGHT]

    def _cheapest(self, candidates: list[ShareCurve]) -> ShareCurve:
        """The first of them where several cost the same."""
        fits = {curve: self.costs(curve) for curve in dict.fromkeys(candidates)}
        errors = {curve: fit.relative_error() for curve, fit in fits.items()}
        noise = max(NOISE, min(errors.values()))
        weight = next(iter(fits.values())).weight
        return min(
            fits, key=lambda curve: weight * (errors[curve] / noise) ** 2 + PRIOR * self._distance(curve) ** 2
        )

    def _distance(self, curve: ShareCurve) -> float:
        assumed = self.assumed
        differences = (
            curve.saturation_percent - assumed.saturation_percent,
            curve.slope_beyond - assumed.slope_beyond,
            curve.bandwidth_slowdown - assumed.bandwidth_slowdown,
        )
        return math.hypot(*(each / unit for each, unit in zip(differences, PRIOR_UNITS, strict=True)))
