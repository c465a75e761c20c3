"""Fits find the law behind their points, never bend the wrong way, and say when they know too little."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.latency.least_squares import LinearFit
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.semi_pd import LatencyPoint, SemiPdModel, fit_tpot, fit_ttft
from semipd_core.latency.share_curve import TURNS, ShareCurve, fit_share_curve
from semipd_core.partition import Role
from semipd_core.telemetry import StepSample

CURVES = st.builds(
    ShareCurve,
    saturation_percent=st.floats(20, 100),
    slope_beyond=st.floats(0, 0.9),
    bandwidth_slowdown=st.floats(0, 0.5),
)
PERCENTS = st.integers(1, 100)


def sample(role=Role.DECODE, at_ns=1, **fields):
    given_fields = {
        "rows": 4, "tokens": 4, "context_tokens": 400, "wall_us": 100_000, "compute_us": 80_000,
        "prefill_percent": 80, "decode_percent": 100, "contended_permille": 0,
    } | fields  # fmt: skip
    return StepSample(role=role, at_ns=at_ns, **given_fields)


# --- least squares ---------------------------------------------------------------------------------------------


def fitted(points):
    fit = LinearFit.empty(len(points[0][0]))
    for features, value in points:
        fit = fit.updated(features, value)
    return fit


def test_a_linear_law_is_found_in_spite_of_noise():
    rng = random.Random(1)
    rows = [(1.0, rng.randint(1, 32), rng.randint(50, 5000)) for _ in range(300)]
    fit = fitted([(x, (40_000 + 5_000 * x[1] + 3 * x[2]) * rng.uniform(0.97, 1.03)) for x in rows])
    assert fit.coefficients() == pytest.approx((40_000, 5_000, 3), rel=0.05)
    assert fit.is_trusted


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e4), st.floats(0.1, 1e6)), min_size=1, max_size=30)
)
def test_no_coefficient_is_ever_negative(points):
    assert min(fitted([((1.0, a, b), value) for a, b, value in points]).coefficients()) >= 0


def test_one_repeated_point_is_reproduced_though_it_determines_nothing():
    a, b = fitted([((1.0, 8.0), 100.0)] * 20).coefficients()
    assert a + 8 * b == pytest.approx(100, rel=0.01)


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(0, 1e4), st.floats(1, 1e6)), min_size=1, max_size=40))
def test_many_points_at_once_are_the_same_as_one_after_the_other(drawn):
    points = [((1.0, tokens, context), value) for tokens, context, value in drawn]
    one_by_one = LinearFit.empty(3)
    for features, value in points:
        one_by_one = one_by_one.updated(features, value)
    at_once = LinearFit.empty(3).extended(points)
    assert at_once.weight == pytest.approx(one_by_one.weight)
    assert at_once.moment == pytest.approx(one_by_one.moment)
    for row, expected in zip(at_once.gram, one_by_one.gram, strict=True):
        assert row == pytest.approx(expected)


def test_old_points_fade():
    fit = fitted([((1.0,), 10.0)] * 2000 + [((1.0,), 20.0)] * 2000)
    assert fit.coefficients()[0] == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_value_that_is_not_positive_is_refused(value):
    with pytest.raises(ValueError, match="allowed: > 0"):
        LinearFit.empty(1).updated((1.0,), value)


# --- share curve -----------------------------------------------------------------------------------------------


@given(CURVES, PERCENTS, PERCENTS, PERCENTS, st.floats(0, 1))
def test_speed_grows_with_the_own_share_and_shrinks_with_the_others(curve, a, b, other, contention):
    low, high = sorted((a, b))
    assert curve.speed(low, other, contention) <= curve.speed(high, other, contention) + 1e-12
    assert curve.speed(other, high, contention) <= curve.speed(other, low, contention) + 1e-12
    assert 0 < curve.contended_speed(a, other) <= curve.lone_speed(a) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("own", "other", "lone", "contended"),
    [
        pytest.param(100, 100, 1.0, 0.5, id="two whole caps share by halves"),
        pytest.param(40, 60, 0.4, 0.4, id="caps that fit beside each other are both kept"),
        pytest.param(20, 100, 0.2, 1 / 6, id="caps above 100 share in proportion"),
    ],
)
def test_lanes_that_take_turns(own, other, lone, contended):
    assert TURNS.lone_speed(own) == pytest.approx(lone)
    assert TURNS.contended_speed(own, other) == pytest.approx(contended)


def test_a_saturating_curve_is_found():
    truth = ShareCurve(saturation_percent=50, slope_beyond=0.2)
    points = [(share, 12.0 / truth.lone_speed(share)) for share in (20, 40, 50, 60, 80, 100)]
    assert fit_share_curve(points) == truth


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param([], id="no point"),
        pytest.param([80, 100, 80, 100], id="two shares"),
        pytest.param([80, 90, 100], id="shares close together"),
    ],
)
def test_no_curve_is_fitted_to(shares):
    assert fit_share_curve([(share, 1.0) for share in shares]) is None


# --- semi-PD ---------------------------------------------------------------------------------------------------


def points(law, shares):
    return [LatencyPoint(share_percent=share, latency_ms=law(share)) for share in shares]


def test_equation_4_is_found():
    ttft = fit_ttft(points(lambda x: 9000 / (x - 21) + 50, [30, 40, 50, 70, 100]))
    tpot = fit_tpot(points(lambda y: 6284 / y + 38, [30, 50, 100]))
    assert ttft is not None
    assert tpot is not None
    for share in (30, 60, 90):
        assert ttft.latency_ms(share) == pytest.approx(9000 / (share - 21) + 50, rel=0.02)
        assert tpot.latency_ms(share) == pytest.approx(6284 / share + 38, rel=1e-6)


@pytest.mark.parametrize("fit", [fit_ttft, fit_tpot])
@pytest.mark.parametrize(
    ("law", "shares"),
    [
        pytest.param(lambda x: 1000 / x, [], id="nothing"),
        pytest.param(lambda x: 1000 / x, [50, 50, 50, 50], id="one share"),
        pytest.param(lambda x: 1000 / x, [50, 100], id="two shares"),
        pytest.param(lambda x: 1000 / x, [50, 52, 54], id="shares on one side"),
        pytest.param(lambda x: 10 * x, [30, 60, 90], id="latency that grows with the share"),
    ],
)
def test_no_latency_curve_is_fitted_to(fit, law, shares):
    assert fit(points(law, shares)) is None


@given(
    st.lists(st.tuples(st.floats(5, 100), st.floats(1, 1e5)), min_size=3, max_size=24),
    st.floats(1, 100),
    st.floats(1, 100),
    st.floats(1, 1e4),
)
def test_predictions_fall_in_the_share_whatever_was_observed(observed, a, b, observed_ms):
    model = SemiPdModel()
    for share, latency_ms in observed:
        model = model.with_ttft(share, latency_ms).with_tpot(share, latency_ms)
    low, high = sorted((a, b))
    for predict in (model.predict_ttft_ms, model.predict_tpot_ms):
        assert predict(high, observed_ms=observed_ms, observed_percent=low) <= observed_ms * (1 + 1e-9)
        assert predict(low, observed_ms=observed_ms, observed_percent=high) >= observed_ms * (1 - 1e-9)


def test_a_curve_refuses_to_extrapolate():
    curve = fit_tpot(points(lambda y: 6284 / y + 38, [40, 50, 60]))
    assert curve is not None
    assert curve.latency_ms(20) is None
    assert curve.latency_ms(90) is None


# --- step model ------------------------------------------------------------------------------------------------


def test_a_model_without_samples_says_what_is_missing():
    assert not StepModel().is_trusted
    assert "prefill: 0 steps" in StepModel().missing()


def test_samples_that_reports_repeat_are_counted_once():
    samples = [sample(at_ns=at_ns) for at_ns in (1, 2, 3)]
    model = StepModel().observe("a", samples).observe("a", [*samples, sample(at_ns=4)]).observe("b", samples)
    assert model.decode.weight == pytest.approx(7, rel=0.02)


@pytest.mark.parametrize(("most", "counted"), [(None, 64), (64, 64), (8, 8), (1, 1)])
def test_of_many_samples_at_most_so_many_are_learned_from_and_none_of_the_others_later(most, counted):
    samples = [sample(at_ns=at_ns) for at_ns in range(1, 65)]
    model = StepModel().observe("a", samples, most)
    assert model.decode.weight == pytest.approx(counted, rel=0.07)
    assert model.observe("a", samples, most).decode.weight == model.decode.weight


def test_the_samples_learned_from_are_spread_evenly_over_all():
    """Half of them long ago, at twice the time: the mean of both halves is learned."""
    samples = [sample(at_ns=at_ns, compute_us=200 if at_ns <= 32 else 100) for at_ns in range(1, 65)]
    all_of_them, some = StepModel().observe("a", samples), StepModel().observe("a", samples, 8)
    costs_ms = [model.decode_ms(rows=4, context_tokens=400) for model in (all_of_them, some)]
    assert costs_ms[1] == pytest.approx(costs_ms[0], rel=0.05)


def test_a_clock_that_starts_anew_does_not_silence_an_engine():
    model = StepModel().observe("a", [sample(at_ns=10**12)]).observe("a", [sample(at_ns=5)])
    assert model.decode.weight == pytest.approx(2, rel=0.01)


def test_step_costs_are_learned_from_samples_of_both_lanes():
    rng, samples = random.Random(2), []
    for at_ns in range(1, 100):
        tokens, rows, context = rng.randint(16, 128), rng.randint(1, 16), rng.randint(100, 2000)
        prefill_us = round(2000 + 3000 * tokens + 0.5 * tokens * context)
        decode_us = 40_000 + 5000 * rows + 2 * context
        samples += [
            sample(Role.PREFILL, at_ns, rows=1, tokens=tokens, context_tokens=context, compute_us=prefill_us),
            sample(Role.DECODE, at_ns, rows=rows, tokens=rows, context_tokens=context, compute_us=decode_us),
        ]
    model = StepModel().observe("a", samples)
    assert model.is_trusted
    assert model.prefill_ms(tokens=100, context_tokens=500) == pytest.approx(327, rel=0.02)
    assert model.decode_ms(rows=8, context_tokens=1000) == pytest.approx(82, rel=0.02)


def test_where_lanes_do_not_take_turns_lone_time_is_wall_time_at_the_speed_of_the_share():
    model = StepModel(curve=ShareCurve(saturation_percent=50), takes_turns=False)
    assert model.lone_us(sample(decode_percent=25, prefill_percent=75, wall_us=100_000)) == pytest.approx(
        50_000
    )
