"""From step results to a point: medians, and how much of the time the other lane was busy too. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from semipd_core.messages import StepResult
from semipd_core.profile.format import Point, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How many steps make a point."""

    min_steps: int = 3
    max_steps: int = 30
    seconds: float = 1.0  # of measured steps, once there are `min_steps`
    # Before the first that counts: a capped lane on the CPU may catch up 200 ms of a pause, and clocks of a GPU rise.
    warm_up_s: float = 0.3

    def is_warm(self, first_ns: int, now_ns: int, steps: int) -> bool:
        return steps >= 1 and now_ns - first_ns >= self.warm_up_s * 1e9

    def is_enough(self, measured: Sequence[StepResult]) -> bool:
        if len(measured) < self.min_steps:
            return False
        elapsed_ns = measured[-1].finished_ns - measured[0].started_ns
        return len(measured) >= self.max_steps or elapsed_ns >= self.seconds * 1e9


def build_point(setting: Setting, measured: Sequence[StepResult], beside: Sequence[StepResult]) -> Point:
    """`beside` holds all steps of the other lane. At least one step must be measured."""
    walls_us = sorted((step.finished_ns - step.started_ns) / 1e3 for step in measured)
    intervals = [(step.started_ns, step.finished_ns) for step in beside]
    wall_ns = sum(step.finished_ns - step.started_ns for step in measured)
    both_ns = sum(overlap_ns((step.started_ns, step.finished_ns), intervals) for step in measured)
    return Point(
        setting=setting,
        steps=len(measured),
        wall_us=max(1, round(statistics.median(walls_us))),
        wall_p90_us=max(1, round(walls_us[min(len(walls_us) - 1, int(0.9 * len(walls_us)))])),
        compute_us=max(1, round(statistics.median(step.compute_ns / 1e3 for step in measured))),
        contended_permille=min(1000, round(1000 * both_ns / wall_ns)) if wall_ns else 0,
    )


def overlap_ns(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> int:
    """How long intervals of `others`, which do not overlap each other, ran inside `span`."""
    begin, end = span
    return sum(max(0, min(end, finished) - max(begin, started)) for started, finished in others)
