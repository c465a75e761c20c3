"""Measuring goes most valuable first until the time is up, keeps what it has, and counts only what was measured under load."""

from __future__ import annotations

import itertools
import math
import socket
import subprocess
from types import SimpleNamespace

import pytest
from measured_law import LIMITS, Law, profile_of

from semipd_core.errors import InvalidSpec
from semipd_core.messages import StepResult
from semipd_core.partition import Isolation, Role
from semipd_core.profile.format import StepLoad
from semipd_core.profile.plan import plan_measurements
from semipd_engine.profiling.lane_bench import LaneBench, NotGranted
from semipd_engine.profiling.lane_link import Forked, LaneLink, LaneLost
from semipd_engine.profiling.measuring import FAILURES_MAX, Clock, measure_all
from semipd_engine.profiling.plans import build_plans
from semipd_engine.profiling.timing import Sampling, build_point, overlap_ns
from semipd_shell import channel

PLAN = plan_measurements(LIMITS)
BLOCK_TOKENS = 4


def silent(_line: str) -> None:
    pass


class LawBench:
    """Takes `seconds` of the test's clock per point, and ends as a killed process would after `lives` of them."""

    def __init__(self, seconds: float = 1.0, lives: int = 1000, failing=()) -> None:
        self.now_s, self.measured = 0.0, []
        self._seconds, self._lives, self._failing = seconds, lives, dict(failing)

    def measure(self, setting):
        if len(self.measured) == self._lives:
            raise KeyboardInterrupt
        self.now_s += self._seconds
        if setting in self._failing:
            raise self._failing[setting]
        self.measured.append(setting)
        return Law().measure(setting)

    def clock(self, budget_s: float) -> Clock:
        return Clock(deadline_s=budget_s, point_s=1.0, now_s=lambda: self.now_s)


EMPTY = profile_of(Law(), points=[])


def test_the_whole_plan_is_measured_where_the_time_suffices():
    bench, kept = LawBench(), []
    profile = measure_all(bench, EMPTY, PLAN, bench.clock(1000.0), kept.append, silent)
    assert bench.measured == list(PLAN)
    assert [len(each.points) for each in kept] == list(range(1, len(PLAN) + 1))
    assert kept[-1] == profile
    assert profile.fits is not None


def test_the_beginning_of_the_plan_is_measured_where_the_time_is_short():
    bench = LawBench()
    profile = measure_all(bench, EMPTY, PLAN, bench.clock(15.0), lambda _: None, silent)
    assert bench.measured == list(PLAN[: len(bench.measured)])
    assert len(bench.measured) == 15
    assert profile.planned == len(PLAN)
    assert bench.now_s <= 15.0


def test_what_was_measured_before_an_end_by_force_is_not_measured_again():
    first, kept = LawBench(lives=7), []
    with pytest.raises(KeyboardInterrupt):
        measure_all(first, EMPTY, PLAN, first.clock(1000.0), kept.append, silent)
    again = LawBench()
    profile = measure_all(again, kept[-1], PLAN, again.clock(1000.0), kept.append, silent)
    assert again.measured == list(PLAN[7:])
    assert [point.setting for point in profile.points] == list(PLAN)


@pytest.mark.parametrize("error", [LaneLost("it ended"), NotGranted("100 %")])
def test_a_setting_whose_lanes_fail_is_left_out_and_the_rest_is_measured(error):
    bench, said = LawBench(failing={PLAN[3]: error, PLAN[4]: error, PLAN[6]: error}), []
    profile = measure_all(bench, EMPTY, PLAN, bench.clock(1000.0), lambda _: None, said.append)
    assert bench.measured == [*PLAN[:3], PLAN[5], *PLAN[7:]]
    assert len(profile.points) == len(PLAN) - 3
    assert f"left out: {PLAN[3]}: {error}" in said
    assert said[-1].startswith("3 left out")


def test_where_one_setting_after_another_fails_the_run_ends_with_the_reason():
    bench = LawBench(failing=dict.fromkeys(PLAN[2:], LaneLost("no device")))
    kept = []
    with pytest.raises(LaneLost, match="no device"):
        measure_all(bench, EMPTY, PLAN, bench.clock(1000.0), kept.append, silent)
    assert len(kept[-1].points) == 2
    assert bench.now_s == 2 + FAILURES_MAX


def test_what_a_wrong_service_meets_is_not_left_out():
    bench = LawBench(failing={PLAN[0]: InvalidSpec("spec.model.dtype", "FP8", "BF16")})
    with pytest.raises(InvalidSpec):
        measure_all(bench, EMPTY, PLAN, bench.clock(1000.0), lambda _: None, silent)


def test_a_lane_that_ends_before_its_hello_is_not_waited_for_and_says_why(tmp_path):
    children = []

    def fork(_role: Role, _percent: int) -> Forked:
        children.append(subprocess.Popen(["true"]))
        return Forked(pid=children[-1].pid, why_ended=lambda: LaneLost("out of memory"))

    bench = LaneBench(
        config=SimpleNamespace(isolation=Isolation.MPS), manifest=None, page=None,
        listener=channel.listen(str(tmp_path / "coordinator.sock")), fork=fork,
    )  # fmt: skip
    with pytest.raises(LaneLost, match="out of memory"):
        bench.measure(PLAN[0])
    bench.close()
    assert [child.wait() for child in children] == [0]


def test_a_lane_that_ends_between_two_steps_says_why():
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(["true"])
    forked = Forked(pid=child.pid, why_ended=lambda: LaneLost("illegal memory access"))
    link = LaneLink(channel.Channel(ours), SimpleNamespace(lane_id="decode-1"), forked, run_ahead=1)
    theirs.close()
    with pytest.raises(LaneLost, match="illegal memory access"):
        link.take()
    ours.close()
    child.wait()


@pytest.mark.parametrize(
    "load",
    [
        StepLoad(role=Role.DECODE, rows=3, tokens=1, context_tokens=9),
        StepLoad(role=Role.PREFILL, rows=1, tokens=10, context_tokens=7),
    ],
    ids=str,
)
def test_a_load_becomes_the_same_step_again_and_again_over_blocks_of_its_own(load):
    plans = build_plans(load, blocks=range(1, 100), block_tokens=BLOCK_TOKENS, vocab_size=384)
    first, second, third = itertools.islice(plans, 3)
    assert [plan.epoch for plan in (first, second, third)] == [1, 2, 3]
    held = [block for row in first.rows for block in row.blocks]
    assert (
        len(set(held))
        == len(held)
        == load.rows * math.ceil((load.context_tokens + load.tokens) / BLOCK_TOKENS)
    )
    for plan in (first, second, third):
        assert len(plan.rows) == load.rows
        assert sum(row.num_tokens for row in plan.rows) == load.total_tokens
        assert {row.start for row in plan.rows} == {load.context_tokens}
        assert all(0 <= token < 384 for row in plan.rows for token in row.tokens)
    assert second.rows == third.rows
    assert not any(row.blocks for row in second.rows)


def result(started_ms: float, finished_ms: float, compute_ms: float = 1.0) -> StepResult:
    return StepResult(
        lane_id="decode-1", epoch=1, tokens=[1], logprobs=[None], started_ns=round(started_ms * 1e6),
        finished_ns=round(finished_ms * 1e6), compute_ns=round(compute_ms * 1e6),
    )  # fmt: skip


def test_a_point_is_the_median_and_says_how_much_of_it_was_contended():
    measured = [result(0, 2), result(2, 6), result(6, 16)]
    point = build_point(PLAN[0], measured, [result(1, 3), result(10, 40)])
    assert (point.steps, point.wall_us, point.wall_p90_us, point.compute_us) == (3, 4000, 10_000, 1000)
    assert point.contended_permille == round(1000 * (1 + 1 + 6) / 16)


@pytest.mark.parametrize(
    ("others", "overlap"),
    [
        pytest.param([], 0, id="nobody else"),
        pytest.param([(0, 10)], 0, id="before"),
        pytest.param([(5, 15)], 5, id="over its beginning"),
        pytest.param([(12, 14), (16, 30)], 6, id="inside, and over its end"),
        pytest.param([(0, 100)], 10, id="around it"),
    ],
)
def test_an_overlap_is_the_time_inside_the_span(others, overlap):
    assert overlap_ns((10, 20), others) == overlap


def test_steps_are_enough_after_a_time_but_never_too_few_or_too_many():
    sampling = Sampling(min_steps=3, max_steps=5, seconds=0.1)
    slow = [result(at, at + 200) for at in (0, 200, 400)]
    fast = [result(at, at + 1) for at in range(5)]
    assert not sampling.is_enough(slow[:2])
    assert sampling.is_enough(slow)
    assert not sampling.is_enough(fast[:4])
    assert sampling.is_enough(fast)
