"""Which rate to try next, for how long: a bracket by short runs, then a decision by long ones. Pure.

Rates lie on one grid of semitones, so that two engines near each other are tried at the very same rates, hence with the very same
requests. A short run only brackets: what it says holds until a long run at the same rate says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

STEPS_PER_DOUBLING = 12
COARSE_STEPS = 3  # ratio 1.19: the crossing is interpolated inside
FINE_STEPS = 1  # ratio 1.06
STRIDES = (
    (1, COARSE_STEPS),
    (4, 2 * COARSE_STEPS),
    (0, STEPS_PER_DOUBLING),
)  # up to so many verdicts; last: beyond
BOTTOM, TOP = -3 * STEPS_PER_DOUBLING, 9 * STEPS_PER_DOUBLING  # 0.125 and 512 requests per second


def rate_of(step: int) -> float:
    """Requests per second."""
    return round(2 ** (step / STEPS_PER_DOUBLING), 4)


def step_of(rate_per_s: float) -> int:
    return round(STEPS_PER_DOUBLING * math.log2(rate_per_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """By step: whether the threshold was kept."""

    short: Mapping[int, bool]
    long: Mapping[int, bool]

    @property
    def verdicts(self) -> Mapping[int, bool]:
        return {**self.short, **self.long}

    @property
    def loses_at(self) -> int | None:
        """The lowest step that loses."""
        return min((step for step, keeps in self.verdicts.items() if not keeps), default=None)

    @property
    def keeps_at(self) -> int | None:
        """The highest step that keeps, below all that lose: kept only above one that loses is noise, which the fit pools."""
        high = self.loses_at
        return max(
            (step for step, keeps in self.verdicts.items() if keeps and (high is None or step < high)),
            default=None,
        )

    def is_decided(self, width: int = COARSE_STEPS) -> bool:
        """Whether long runs stand on both sides of the crossing, `width` apart at most."""
        low, high = self.keeps_at, self.loses_at
        if low is None or high is None:
            return False
        return low in self.long and high in self.long and high - low <= width


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    step: int
    is_long: bool


def next_bracket(tried: Tried, guess: int) -> Trial | None:
    """A short run; None once keeping and losing rates are COARSE_STEPS apart, or there is no crossing on the grid."""
    low, high = tried.keeps_at, tried.loses_at
    if low is None and high is None:
        step = min(max(guess, BOTTOM), TOP)
    elif high is None:
        assert low is not None
        step = min(low + _stride(tried), TOP)
    elif low is None:
        step = max(high - _stride(tried), BOTTOM)
    elif high - low > COARSE_STEPS:
        step = (low + high) // 2
    else:
        return None
    return None if step in tried.verdicts else Trial(step=step, is_long=False)


def next_trial(tried: Tried, guess: int, width: int = COARSE_STEPS) -> Trial | None:
    """Until `tried.is_decided(width)`; None then, and where no rate of the grid is on one of the sides."""
    bracketing = next_bracket(tried, guess)
    if bracketing is not None:
        return bracketing
    low, high = tried.keeps_at, tried.loses_at
    if low is not None and low not in tried.long:
        return Trial(step=low, is_long=True)
    if high is not None and high not in tried.long:
        return Trial(step=high, is_long=True)
    if low is not None and high is not None and high - low > width:
        return Trial(step=(low + high) // 2, is_long=True)
    return None


def _stride(tried: Tried) -> int:
    """Longer with each step in the same direction."""
    return next((stride for most, stride in STRIDES if len(tried.verdicts) <= most), STRIDES[-1][1])
