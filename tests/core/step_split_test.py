"""The split of a step: faster prefill while decode keeps its limit, the other way round once the cache is almost full."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES, TURNS, RoleCurves, ShareCurve
from semipd_core.partition import Partition
from semipd_core.policies.splits import DISJOINT
from semipd_core.step_split import StepLoad, StepReason, StepRule

GPU = ShareCurve(saturation_percent=40, slope_beyond=0.2, bandwidth_slowdown=0.1)
RULE = StepRule(decode_limit_ms=60, prefill_limit_ms=200)
BOTH = StepLoad(
    has_prefill=True, has_decode=True, prefill_lone_ms=50, decode_lone_ms=20, kv_used_permille=100
)
FULL = replace(BOTH, kv_used_permille=701)


def at(prefill: int) -> Partition:
    return Partition(prefill_percent=prefill, decode_percent=100 - prefill)


HALF = at(50)


def choose(load: StepLoad, rule: StepRule = RULE, current: Partition = HALF, curve: ShareCurve = TURNS):
    return rule.choose(load, DISJOINT, current, at(40), RoleCurves(prefill=curve, decode=curve))


@pytest.mark.parametrize(
    ("load", "split", "reason"),
    [
        pytest.param(
            BOTH, at(60), StepReason.PREFILL_FIRST, id="the least decode share that keeps its limit"
        ),
        pytest.param(
            FULL, at(30), StepReason.DECODE_FIRST, id="the least prefill share that keeps its limit"
        ),
        pytest.param(
            replace(BOTH, kv_used_permille=700),
            at(60),
            StepReason.PREFILL_FIRST,
            id="at the switch, not above it",
        ),
        pytest.param(
            replace(BOTH, decode_lone_ms=80), at(10), StepReason.INFEASIBLE, id="too slow even at its best"
        ),
        pytest.param(
            replace(BOTH, has_decode=False, decode_lone_ms=None),
            at(80),
            StepReason.PREFILL_ALONE,
            id="no decode",
        ),
        pytest.param(
            replace(BOTH, has_prefill=False, prefill_lone_ms=None),
            at(10),
            StepReason.DECODE_ALONE,
            id="no prefill",
        ),
        pytest.param(
            replace(BOTH, decode_lone_ms=None),
            at(40),
            StepReason.NOT_MODELLED,
            id="the wish's target until known",
        ),
        pytest.param(
            replace(BOTH, has_prefill=False, has_decode=False),
            at(50),
            StepReason.IDLE,
            id="nothing to compute",
        ),
    ],
)
def test_the_split_follows_from_what_is_at_hand(load, split, reason):
    choice = choose(load)
    assert (choice.split, choice.reason) == (split, reason)


def test_without_an_slo_the_slacks_are_those_of_nexus():
    choice = choose(BOTH, StepRule(), curve=GPU)
    assert choice.reason is StepReason.INFEASIBLE, (
        "two lanes at work cost more than 1.1 of decode's time alone"
    )
    roomy = replace(GPU, bandwidth_slowdown=0.0)
    choice = choose(BOTH, StepRule(), curve=roomy)
    assert choice.reason is StepReason.PREFILL_FIRST
    assert choice.decode_ms <= 1.1 * 20


def test_a_small_gain_does_not_move_a_split_that_keeps_its_limit():
    choice = choose(BOTH, replace(RULE, min_gain_percent=20), current=at(50))
    assert (choice.split, choice.reason) == (at(50), StepReason.WITHIN_HYSTERESIS)


def test_a_split_that_breaks_the_limit_is_left_however_small_the_move():
    choice = choose(BOTH, replace(RULE, min_gain_percent=20), current=at(70))
    assert (choice.split, choice.reason) == (at(60), StepReason.PREFILL_FIRST)


def test_one_legal_split_is_no_choice():
    choice = RULE.choose(BOTH, [at(20)], at(50), at(50), RoleCurves())
    assert (choice.split, choice.reason) == (at(20), StepReason.ONE_SPLIT)


def test_a_choice_says_what_it_expects():
    assert choose(BOTH).message == "(60, 40): PrefillFirst, prefill 83.3 ms, decode 50.0 ms"


loads = st.builds(
    StepLoad,
    has_prefill=st.just(True),
    has_decode=st.just(True),
    prefill_lone_ms=st.floats(0.1, 500),
    decode_lone_ms=st.floats(0.1, 500),
    kv_used_permille=st.floats(0, 1000),
)
curves = st.builds(
    ShareCurve,
    saturation_percent=st.floats(5, 100),
    slope_beyond=st.floats(0, 0.9),
    bandwidth_slowdown=st.floats(0, 1),
)


def test_on_a_gpu_decode_needs_few_sms_and_prefill_gets_the_rest():
    load = replace(BOTH, prefill_lone_ms=40, decode_lone_ms=8)
    choice = RULE.choose(load, DISJOINT, HALF, HALF, ASSUMED_GPU_CURVES)
    assert (choice.split, choice.reason) == (at(80), StepReason.PREFILL_FIRST)
    slack_alone = StepRule().choose(load, DISJOINT, HALF, HALF, ASSUMED_GPU_CURVES)
    assert slack_alone.split.decode_percent > choice.split.decode_percent


@given(loads, curves, curves, st.sampled_from(DISJOINT), st.floats(0, 300), st.floats(0, 300))
def test_no_legal_split_would_be_better(load, curve, other, current, prefill_limit_ms, decode_limit_ms):
    """An exhaustive scan by the rule's own words is the judge."""
    rule = StepRule(prefill_limit_ms=prefill_limit_ms, decode_limit_ms=decode_limit_ms, min_gain_percent=0)
    choice = rule.choose(load, DISJOINT, current, current, RoleCurves(prefill=curve, decode=other))

    def times(split: Partition) -> tuple[float, float]:
        prefill = load.prefill_lone_ms / curve.contended_speed(split.prefill_percent, split.decode_percent)
        decode = load.decode_lone_ms / other.contended_speed(split.decode_percent, split.prefill_percent)
        return prefill, decode

    decode_first = load.kv_used_permille > 700
    target, guarded = (1, 0) if decode_first else (0, 1)
    limit = (
        max(1.3 * load.prefill_lone_ms, prefill_limit_ms)
        if decode_first
        else max(1.1 * load.decode_lone_ms, decode_limit_ms)
    )
    feasible = [split for split in DISJOINT if times(split)[guarded] <= limit]
    chosen = times(choice.split)
    if feasible:
        assert choice.split in feasible
        assert chosen[target] == min(times(split)[target] for split in feasible)
    else:
        assert choice.reason is StepReason.INFEASIBLE
        assert chosen[guarded] == min(times(split)[guarded] for split in DISJOINT)


@given(loads, curves, st.sampled_from(DISJOINT))
def test_the_choice_is_stable_once_made(load, curve, current):
    curves = RoleCurves(prefill=curve, decode=curve)
    first = RULE.choose(load, DISJOINT, current, current, curves)
    again = RULE.choose(load, DISJOINT, first.split, current, curves)
    assert again.split == first.split


@given(curves, st.floats(1, 100), st.floats(1, 100))
def test_a_heavier_decode_step_never_gets_a_smaller_share(curve, lone_ms, more_ms):
    lighter = choose(
        replace(BOTH, decode_lone_ms=lone_ms), curve=curve, rule=replace(RULE, min_gain_percent=0)
    )
    heavier = choose(
        replace(BOTH, decode_lone_ms=lone_ms + more_ms), curve=curve, rule=replace(RULE, min_gain_percent=0)
    )
    if heavier.reason is StepReason.PREFILL_FIRST:
        beta_binds = 1.1 * (lone_ms + more_ms) > 60
        assert beta_binds or heavier.split.decode_percent >= lighter.split.decode_percent
