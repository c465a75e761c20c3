"""Share curves that are assumed are corrected by steps at several shares, and by nothing less."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semipd_core.engine.split_choice import SplitChoice, SplitSettings
from semipd_core.latency.curve_learning import CONDITIONS_KEPT, FIRST_FIT, FIT_EVERY, Condition, CurveLearner
from semipd_core.latency.nexus import StepModel, sample_speed
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES, RoleCurves, ShareCurve
from semipd_core.partition import Role
from semipd_core.profile.start import start_on_a_gpu
from semipd_core.telemetry import SloTargets, StepSample

SPLITS = ((12, 88), (30, 70), (48, 52), (67, 33), (85, 15))
LONE_US = {Role.PREFILL: (900.0, 18.0, 0.0), Role.DECODE: (4_500.0, 15.0, 0.03)}
curves = st.builds(
    ShareCurve,
    saturation_percent=st.integers(20, 100).map(float),
    slope_beyond=st.floats(0.0, 0.8),
    bandwidth_slowdown=st.floats(0.0, 0.5),
)


def steps(true: RoleCurves, splits=SPLITS, count=300, noise=0.03, seed=0, contention=(0, 1000)):
    """Steps of both lanes under `true`, at each split alone and beside the other lane."""
    draw, samples = random.Random(seed), []
    for at_ns in range(1, count + 1):
        prefill, decode = draw.choice(splits)
        for role, curve in ((Role.PREFILL, true.prefill), (Role.DECODE, true.decode)):
            rows = 1 if role is Role.PREFILL else draw.randint(1, 128)
            tokens = draw.randint(64, 2048) if role is Role.PREFILL else rows
            context = tokens if role is Role.PREFILL else rows * draw.randint(100, 2000)
            base, per_token, per_entry = LONE_US[role]
            sample = StepSample(
                role=role, at_ns=at_ns, rows=rows, tokens=tokens, context_tokens=context, wall_us=1, compute_us=1,
                prefill_percent=prefill, decode_percent=decode, contended_permille=draw.choice(contention),
            )  # fmt: skip
            lone_us = base + per_token * tokens + (per_entry * context if role is Role.DECODE else 0.0)
            wall_us = lone_us / sample_speed(curve, sample) * draw.lognormvariate(0.0, noise)
            samples.append(_at(sample, wall_us))
    return samples


def reports(samples, size=40):
    """As a coordinator tells them, some at a time."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _at(sample: StepSample, wall_us: float) -> StepSample:
    fields = {name: getattr(sample, name) for name in sample.__struct_fields__}
    return StepSample(**(fields | {"wall_us": round(wall_us), "compute_us": round(wall_us)}))


def speed_at(curve: ShareCurve, share: int) -> float:
    """Relative to the middle of the shares seen: what a choice between splits asks for."""
    return curve.lone_speed(share) / curve.lone_speed(48)


@settings(max_examples=25, deadline=None)
@example(
    prefill=ShareCurve(saturation_percent=24.0, bandwidth_slowdown=0.5),
    decode=ShareCurve(saturation_percent=24.0),
)
@given(prefill=curves, decode=curves)
def test_a_known_curve_is_recovered_from_noisy_steps(prefill, decode):
    true = RoleCurves(prefill=prefill, decode=decode)
    model = StepModel.learning(ASSUMED_GPU_CURVES)
    for reported in reports(steps(true)):
        model = model.observe("e", reported)
    for role, expected, shares in (
        (Role.PREFILL, prefill, (12, 30, 67, 85)), (Role.DECODE, decode, (15, 33, 70, 88)),
    ):  # fmt: skip
        found = model.curve_of(role)
        for share in shares:
            # Saturations that the learner knows are 10 points apart: 25 may be found as 20.
            assert speed_at(found, share) == pytest.approx(speed_at(expected, share), rel=0.26)
    assert model.is_trusted
    rows = 64
    found_ms = model.decode_ms(rows=rows, context_tokens=rows * 1000) / model.curve_of(
        Role.DECODE
    ).lone_speed(48)
    true_ms = (4_500.0 + 15.0 * rows + 0.03 * rows * 1000) / 1000 / decode.lone_speed(48)
    assert found_ms == pytest.approx(true_ms, rel=0.1), "costs follow the curve that they were divided by"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=1, max_size=6),
    st.floats(0.0, 1.0),
    st.integers(0, 9),
)
def test_more_sms_never_make_a_lane_slower_whatever_the_steps_say(splits, noise, seed):
    true = RoleCurves(prefill=ShareCurve(saturation_percent=40), decode=ShareCurve())
    model = StepModel.learning(ASSUMED_GPU_CURVES).observe(
        "e", steps(true, splits, count=80, noise=noise, seed=seed)
    )
    for role in (Role.PREFILL, Role.DECODE):
        speeds = [model.curve_of(role).lone_speed(share) for share in range(1, 101)]
        assert speeds == sorted(speeds)


@pytest.mark.parametrize(
    "splits",
    [
        pytest.param(((50, 50),), id="one split"),
        pytest.param(((50, 50), (40, 60)), id="two"),
        pytest.param(((50, 50), (45, 55), (40, 60)), id="three, all near each other"),
    ],
)
def test_steps_at_too_few_shares_leave_the_assumed_curves(splits):
    true = RoleCurves(prefill=ShareCurve(), decode=ShareCurve())
    model = StepModel.learning(ASSUMED_GPU_CURVES).observe("e", steps(true, splits))
    assert model.curve_of(Role.PREFILL) == ASSUMED_GPU_CURVES.prefill
    assert model.curve_of(Role.DECODE) == ASSUMED_GPU_CURVES.decode


def test_where_the_assumed_curve_is_right_it_stays():
    model = StepModel.learning(ASSUMED_GPU_CURVES).observe("e", steps(ASSUMED_GPU_CURVES))
    assert model.curve_of(Role.PREFILL) == ASSUMED_GPU_CURVES.prefill
    assert model.curve_of(Role.DECODE) == ASSUMED_GPU_CURVES.decode


def test_the_price_of_sharing_is_learned_only_from_steps_alone_and_together():
    slow = RoleCurves(prefill=ShareCurve(bandwidth_slowdown=0.4), decode=ShareCurve(bandwidth_slowdown=0.4))
    both = StepModel.learning(ASSUMED_GPU_CURVES).observe("e", steps(slow))
    together = StepModel.learning(ASSUMED_GPU_CURVES).observe("e", steps(slow, contention=(1000,)))
    assert both.curve_of(Role.DECODE).bandwidth_slowdown == 0.4
    assumed = ASSUMED_GPU_CURVES.decode.bandwidth_slowdown
    assert together.curve_of(Role.DECODE).bandwidth_slowdown == assumed


def test_fits_are_rare_and_what_is_kept_is_bounded():
    learner, fits = CurveLearner.starting_at(ShareCurve()), 0
    for number in range(3 * FIT_EVERY):
        condition = Condition(own=1 + number % 90, other=50, level=number % 5)
        learner = learner.extended([(condition, (1.0, 1.0, 0.0), 100.0)])
        if learner.is_due:
            learner, fits = learner.fitted(), fits + 1
    assert fits <= 2 + (FIT_EVERY // FIRST_FIT).bit_length() + 1
    assert len(learner.sums) <= CONDITIONS_KEPT


@pytest.mark.parametrize("before", [32, CONDITIONS_KEPT, 2 * CONDITIONS_KEPT])
def test_a_new_split_is_learned_however_many_conditions_were_seen_before(before):
    learner, point = CurveLearner.starting_at(ShareCurve()), ((1.0, 1.0, 0.0), 100.0)
    for number in range(before):
        old = Condition(own=1 + number % 90, other=50, level=number % 5)
        learner = learner.extended([(old, *point)] * 40)
    new = Condition(own=95, other=5, level=0)
    for _ in range(200):
        learner = learner.extended([(new, *point)] * 8)
    assert learner.sums[new].weight > 400
    assert len(learner.sums) == min(before + 1, CONDITIONS_KEPT)


def test_a_gpu_without_a_profile_learns_and_its_step_choice_too():
    assert set(start_on_a_gpu().steps.learners) == {Role.PREFILL, Role.DECODE}
    slo = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
    true = RoleCurves(prefill=ShareCurve(), decode=ShareCurve(saturation_percent=80))
    chosen = {}
    for learns in (True, False):
        choice = SplitChoice(
            SplitSettings.of(slo, ASSUMED_GPU_CURVES, takes_turns=False, learns_curves=learns)
        )
        for sample in steps(true):
            choice.observe(sample)
        chosen[learns] = choice.curves
    assert chosen[False] == ASSUMED_GPU_CURVES
    assert speed_at(chosen[True].decode, 88) == pytest.approx(speed_at(true.decode, 88), rel=0.1)
