"""A setting that cannot be measured is told and left out; the others are measured, by another process if the lane is gone."""

from __future__ import annotations

import pytest
from gpu_bench.needs import EXIT_TIME_IS_UP
from gpu_bench.steps import PLANS, exit_code, measure_settings
from measured_law import Law, profile_of

from semipd_engine.profiling.lane_bench import NotGranted
from semipd_engine.profiling.lane_link import LaneLost
from semipd_engine.profiling.measuring import Clock

PLAN = PLANS["splits"]
EMPTY = profile_of(Law(), points=[])


class FailingBench:
    """`fails`: what happens at a setting."""

    def __init__(self, fails) -> None:
        self.fails, self.asked = fails, []

    def measure(self, setting):
        self.asked.append(setting)
        if setting in self.fails:
            raise self.fails[setting]
        return Law().measure(setting)


def call(fails, profile, failed):
    bench, kept = FailingBench(fails), []
    clock = Clock(deadline_s=1e9, point_s=1.0, now_s=lambda: 0.0)
    profile = measure_settings(bench, profile, PLAN, clock, kept.append, failed)
    return bench.asked, profile, exit_code(PLAN, profile, failed)


def test_a_share_that_is_not_granted_is_left_out_and_tried_again_last_by_the_next_call():
    failed = {}
    asked, profile, code = call({PLAN[1]: NotGranted("80 % instead")}, EMPTY, failed)
    assert asked == list(PLAN)
    assert failed == {str(PLAN[1]): "80 % instead"}
    assert (code, len(profile.points), profile.planned) == (1, len(PLAN) - 1, len(PLAN))
    asked, profile, code = call({}, profile, failed)
    assert (asked, failed, code) == ([PLAN[1]], {}, 0)


def test_after_a_lane_is_lost_another_process_goes_on_with_the_rest_first():
    failed = {}
    asked, profile, code = call({PLAN[1]: LaneLost("it ended")}, EMPTY, failed)
    assert (asked, code) == (list(PLAN[:2]), EXIT_TIME_IS_UP)
    assert [point.setting for point in profile.points] == [PLAN[0]], "what was measured is kept"
    asked, _, code = call({PLAN[1]: LaneLost("it ended")}, profile, failed)
    assert (asked, code) == ([*PLAN[2:], PLAN[1]], 1)


@pytest.mark.parametrize(
    ("measured", "failed", "code"),
    [(len(PLAN), 0, 0), (len(PLAN) - 1, 1, 1), (len(PLAN) - 2, 1, EXIT_TIME_IS_UP), (0, 0, EXIT_TIME_IS_UP)],
)
def test_a_call_ends_with(measured, failed, code):
    profile = profile_of(Law(), points=[Law().measure(setting) for setting in PLAN[:measured]])
    told = {str(setting): "lost" for setting in PLAN[measured : measured + failed]}
    assert exit_code(PLAN, profile, told) == code
