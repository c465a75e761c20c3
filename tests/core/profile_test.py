"""A plan measures what matters first and nothing twice; a fit finds the law behind its points; a file says what it is about."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_law import LIMITS, SUBJECT, Law, profile_of

from semipd_core.errors import InvalidSpec
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES, RoleCurves, ShareCurve
from semipd_core.partition import Role
from semipd_core.profile.fit import fit_points
from semipd_core.profile.format import VERSION, decode_profile, difference
from semipd_core.profile.plan import Limits, choose_next, plan_measurements

GPU = Law(
    curves={
        Role.PREFILL: ShareCurve(saturation_percent=90, slope_beyond=0.5, bandwidth_slowdown=0.1),
        Role.DECODE: ShareCurve(saturation_percent=35, slope_beyond=0.1, bandwidth_slowdown=0.2),
    },
    takes_turns=False,
)

# --- the plan --------------------------------------------------------------------------------------------------


@given(
    st.builds(
        Limits,
        chunk_tokens=st.integers(1, 16_384),
        max_rows=st.integers(1, 1024),
        max_context_tokens=st.integers(2, 131_072),
        kv_tokens=st.integers(16, 2_000_000),
    )
)
def test_a_plan_repeats_nothing_and_every_lane_fits_into_half_of_the_cache(limits):
    plan = plan_measurements(limits)
    assert len(set(plan)) == len(plan)
    for load in [s.load for s in plan] + [s.beside for s in plan if s.beside is not None]:
        assert 1 <= load.rows <= limits.max_rows
        assert load.total_tokens <= max(limits.chunk_tokens, limits.max_rows)
        assert load.context_tokens + load.tokens <= limits.max_context_tokens
        assert load.entries_read <= limits.kv_tokens // 2


def test_the_beginning_of_a_plan_is_enough_for_both_lone_costs():
    points = [GPU.measure(setting) for setting in plan_measurements(LIMITS)[:8]]
    model, fits = fit_points(points, takes_turns=False)
    assert fits is not None
    assert model.decode_ms(rows=64, context_tokens=64_000) == pytest.approx(4.5 + 0.96 + 1.92, rel=0.02)


def test_the_whole_device_comes_before_sharing_and_sharing_before_shares():
    kinds = ["alone" if s.beside is None else "together" for s in plan_measurements(LIMITS)[:10]]
    assert kinds == ["alone"] * 8 + ["together"] * 2
    assert {s.load.role for s in plan_measurements(LIMITS)[:2]} == {Role.PREFILL, Role.DECODE}


@pytest.mark.parametrize(
    ("done", "left_s", "chosen"),
    [
        pytest.param([], 100.0, 0, id="the first of a plan"),
        pytest.param([0, 1], 100.0, 2, id="not what is done"),
        pytest.param([], 2.5, 1, id="one that fits where the first does not"),
        pytest.param([], 0.5, None, id="none, for want of time"),
        pytest.param([0, 1, 2, 3], 100.0, None, id="none, all are done"),
    ],
)
def test_the_next_measurement_is(done, left_s, chosen):
    plan = plan_measurements(LIMITS)[:4]
    costs = dict(zip(plan, (3.0, 1.0, 2.0, 4.0), strict=True))
    found = choose_next(plan, [plan[index] for index in done], left_s, costs.__getitem__)
    assert found == (None if chosen is None else plan[chosen])


# --- the fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [pytest.param(Law(), id="turns"), pytest.param(GPU, id="SMs in space")])
def test_the_law_behind_the_points_is_found(law):
    fits = fit_points(profile_of(law).points, takes_turns=law.takes_turns)[1]
    assert fits is not None
    for cost, truth in ((fits.prefill, law.prefill_us), (fits.decode, law.decode_us)):
        assert (cost.base_us, cost.per_token_us, cost.per_entry_us) == pytest.approx(truth, rel=0.1)
    assert not fits.outliers


def test_each_phase_has_its_own_curve_and_its_own_price_of_sharing():
    fits = fit_points(profile_of(GPU).points, takes_turns=False)[1]
    assert fits is not None
    for cost, role in ((fits.prefill, Role.PREFILL), (fits.decode, Role.DECODE)):
        truth, found = GPU.curves[role], ShareCurve(**msgspec.structs.asdict(cost.curve))
        for percent in (15, 30, 50, 80):
            assert found.lone_speed(percent) == pytest.approx(truth.lone_speed(percent), rel=0.05)
        assert found.bandwidth_slowdown == pytest.approx(truth.bandwidth_slowdown, abs=0.03)


@pytest.mark.parametrize(
    ("count", "learned"),
    [
        pytest.param(8, set(Role) - {Role.MIXED}, id="lone costs alone"),
        pytest.param(12, set(Role) - {Role.MIXED}, id="two shares"),
        pytest.param(13, {Role.PREFILL}, id="three shares of decode"),
        pytest.param(14, set(), id="three shares of both"),
    ],
)
def test_a_phase_measured_at_too_few_shares_has_the_assumed_curve_and_learns_it(count, learned):
    points = [GPU.measure(setting) for setting in plan_measurements(LIMITS)[:count]]
    model = fit_points(points, takes_turns=False)[0]
    assert set(model.learners) == learned
    for role in (Role.PREFILL, Role.DECODE):
        truth = (
            ASSUMED_GPU_CURVES
            if role in learned
            else RoleCurves(prefill=GPU.curves[Role.PREFILL], decode=GPU.curves[Role.DECODE])
        )
        assert model.curve_of(role).lone_speed(30) == pytest.approx(truth.of(role).lone_speed(30), rel=0.1)


@pytest.mark.parametrize("factor", [3.0, 30.0])
def test_points_that_took_longer_than_their_load_explains_are_named_and_left_out(factor):
    points = profile_of(Law()).points
    for index in (3, 12, 25):
        slower = round(points[index].compute_us * factor)
        points[index] = msgspec.structs.replace(points[index], compute_us=slower, wall_us=slower)
    fits = fit_points(points, takes_turns=True)[1]
    assert fits is not None
    assert fits.outliers == [str(points[index].setting) for index in (3, 12, 25)]
    assert fits.decode.base_us == pytest.approx(Law().decode_us[0], rel=0.1)


def test_too_few_points_make_no_fit():
    points = profile_of(Law()).points[:2]
    assert fit_points(points[:1], takes_turns=True)[1] is None


# --- the file --------------------------------------------------------------------------------------------------


def test_a_profile_is_the_same_after_a_journey_through_its_file():
    profile = profile_of(GPU)
    assert decode_profile(msgspec.json.encode(profile), "--profile", "p.json") == profile


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(msgspec.json.encode(profile_of(GPU))[:-40], "truncated", id="half a file"),
        pytest.param(b"\xff\xfe", "malformed", id="no JSON"),
        pytest.param(
            msgspec.json.encode(profile_of(GPU, version=VERSION + 1)), "version 2", id="a later version"
        ),
        pytest.param(b"{}", "missing required field `version`", id="another file"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_in_the_name_of_its_flag(data, said):
    with pytest.raises(
        InvalidSpec, match=r"--profile: got 'p.json .*allowed: a profile of version 1"
    ) as refused:
        decode_profile(data, "--profile", "p.json")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"device_name": "H100"}, "deviceName 'a processor', here 'H100'", id="another card"),
        pytest.param({"device_cores": 64}, "deviceCores 2, here 64", id="fewer cores"),
        pytest.param({"dtype": "FP8"}, "dtype 'FP32', here 'FP8'", id="weights in FP8"),
        pytest.param({"ranks": 2}, "ranks 1, here 2", id="more ranks"),
        pytest.param({"dtype": "BF16"}, "dtype 'FP32', here 'BF16'", id="another dtype"),
        pytest.param({"model": {"numLayers": 4}}, "model.numLayers 2, here 4", id="a deeper model"),
        pytest.param({"model": {}}, "model.numLayers 2, here None", id="a model without that"),
    ],
)
def test_what_a_profile_is_about_is_compared_by_name(changed, said):
    assert difference(SUBJECT, msgspec.structs.replace(SUBJECT, **changed)) == said
