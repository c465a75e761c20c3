"""Forecasts are monotone over splits, agree with what is observed at the present one, and count what load there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.latency.forecast import calibrate, least_ratio
from semipd_core.latency.load import EngineLoad, measure_load
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.share_curve import TURNS, ShareCurve
from semipd_core.partition import Partition, Role
from semipd_core.slo import histogram
from semipd_core.slo.pooled import PooledWindow
from semipd_core.telemetry import CoordinatorReport, SloTargets, StepSample

SLO = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)
CAPS = st.integers(5, 100)
SPLITS = st.builds(Partition, prefill_percent=CAPS, decode_percent=CAPS)
CURVES = st.just(TURNS) | st.builds(
    ShareCurve, saturation_percent=st.floats(30, 100), slope_beyond=st.floats(0, 0.5)
)


def step_model(curve=TURNS, token_us=3300, base_us=60_000, row_us=5000):
    """A model that has seen steps of exactly these costs."""
    samples = []
    for index in range(1, 60):
        tokens, rows = 16 + index, 1 + index % 13
        common = {
            "at_ns": index,
            "wall_us": 1,
            "prefill_percent": 100,
            "decode_percent": 100,
            "contended_permille": 0,
        }
        samples += [
            StepSample(role=Role.PREFILL, rows=1, tokens=tokens, context_tokens=0, compute_us=token_us * tokens, **common),
            StepSample(
                role=Role.DECODE, rows=rows, tokens=rows, context_tokens=0, compute_us=base_us + row_us * rows, **common
            ),
        ]  # fmt: skip
    return StepModel(curve=curve).observe("e", samples)


def window(ttfts=(), tpots=(), arrived=10, prompt_tokens=1000, **fields):
    ttft_ms, tpot_ms = {}, {}
    for value in ttfts:
        histogram.add(ttft_ms, value)
    for value in tpots:
        histogram.add(tpot_ms, value)
    return PooledWindow(
        since_s=0, until_s=20, engines=1, arrived=arrived, prompt_tokens=prompt_tokens, ttft_ms=ttft_ms, tpot_ms=tpot_ms,
        **fields,
    )  # fmt: skip


LOADS = st.builds(
    EngineLoad,
    waiting_tokens=st.floats(0, 2000),
    decode_rows=st.floats(0, 20),
    chunk_tokens=st.floats(1, 128),
    decode_contention=st.floats(0, 1),
    prefill_contention=st.floats(0, 1),
    decode_pace=st.floats(0.5, 1.5),
    prefill_pace=st.floats(0.5, 1.5),
)
LATENCIES = st.lists(st.floats(1, 20_000), max_size=12)
MODELS = {curve: step_model(curve) for curve in (TURNS, ShareCurve(saturation_percent=50, slope_beyond=0.2))}


def forecaster(load=None, seen=None, current=None, model=None):
    seen = seen or window()
    return calibrate(
        model=model or MODELS[TURNS], load=load or EngineLoad(decode_rows=4, chunk_tokens=64), window=seen, demand=seen,
        slo=SLO, current=current or Partition(prefill_percent=80, decode_percent=100),
    )  # fmt: skip


@given(
    st.sampled_from(list(MODELS.values())),
    LOADS,
    LATENCIES,
    LATENCIES,
    SPLITS,
    SPLITS,
    CAPS,
    st.integers(0, 40),
)
def test_forecasts_are_monotone_over_splits(model, load, ttfts, tpots, current, split, other, arrived):
    judge = forecaster(load, window(ttfts, tpots, arrived, 100 * arrived), current, model)
    at, near = judge.forecast(split), 1 + 1e-9
    more_prefill = judge.forecast(
        Partition(prefill_percent=max(split.prefill_percent, other), decode_percent=split.decode_percent)
    )
    assert more_prefill.ttft_ms <= at.ttft_ms * near
    assert more_prefill.tpot_ms >= at.tpot_ms / near
    more_decode = judge.forecast(
        Partition(prefill_percent=split.prefill_percent, decode_percent=max(split.decode_percent, other))
    )
    assert more_decode.ttft_ms >= at.ttft_ms / near
    if model.curve == TURNS:
        assert more_decode.tpot_ms <= at.tpot_ms * near
    assert 0 <= at.attainment_permille <= 1000


def test_the_forecast_at_the_present_split_is_what_is_observed_there():
    current = Partition(prefill_percent=100, decode_percent=100)
    seen = window(ttfts=[700.0] * 10, tpots=[150.0] * 10)
    at = forecaster(EngineLoad(decode_rows=4, chunk_tokens=64), seen, current).forecast(current)
    assert at.ttft_ms == pytest.approx(700, rel=0.03)
    assert at.tpot_ms == pytest.approx(
        160, rel=0.03
    )  # prefill always busy: 80 ms at half speed, more than observed


def test_a_missed_target_without_a_known_latency_is_forecast_above_it():
    seen = window(ttfts=[300.0] * 10, attained=5, missed=5, missed_ttft=5)
    current = Partition(prefill_percent=80, decode_percent=100)
    assert not forecaster(seen=seen, current=current).forecast(current).meets_ttft(SLO)


def test_overload_grows_with_what_arrives():
    current = Partition(prefill_percent=20, decode_percent=100)
    forecasts = [
        forecaster(seen=window(arrived=n, prompt_tokens=100 * n), current=current).forecast(current)
        for n in (5, 20, 80)
    ]
    assert forecasts[0].ttft_ms < forecasts[1].ttft_ms < forecasts[2].ttft_ms
    assert forecasts[2].attainment_permille < forecasts[0].attainment_permille


def coordinator(samples=(), **fields):
    given_fields = {
        "waiting": 1, "prefilling": 0, "decoding": 3, "kv_blocks_total": 100, "kv_blocks_used": 40, "kv_blocks_cached": 0,
        "block_tokens": 16, "waiting_tokens": 50, "oldest_wait_ms": 10, "preemptions": 0, "prefix_hit_tokens": 0,
        "lane_restarts": 0,
    } | fields  # fmt: skip
    return CoordinatorReport(samples=list(samples), **given_fields)


def test_load_is_the_mean_of_queues_and_the_worst_of_limits():
    load = measure_load(
        [coordinator(), coordinator(waiting_tokens=150, kv_blocks_used=80, oldest_wait_ms=99)], StepModel()
    )
    assert (load.waiting_tokens, load.kv_used_permille, load.oldest_wait_ms, load.decode_rows) == (
        100,
        800,
        99,
        3,
    )
    assert (load.decode_contention, load.prefill_contention) == (1.0, 1.0)


def test_contention_and_pace_come_from_recent_steps_alone():
    def step(at_s, contended_permille, compute_us):
        return StepSample(
            role=Role.DECODE, at_ns=int(at_s * 1e9), rows=4, tokens=4, context_tokens=40, wall_us=100_000,
            compute_us=compute_us, prefill_percent=100, decode_percent=100, contended_permille=contended_permille,
        )  # fmt: skip

    load = measure_load(
        [coordinator([step(1, 1000, 1), step(50, 500, 75_000), step(51, 0, 100_000)])], StepModel()
    )
    assert load.decode_contention == pytest.approx(0.25)
    assert load.decode_pace == pytest.approx(1.0)
    assert (load.token_gap_ms, load.context_tokens_per_row) == (100, 10)


def test_without_any_report_the_worst_case_stands():
    assert measure_load([], StepModel()) == EngineLoad()


@given(
    st.sampled_from(list(MODELS.values())),
    LOADS,
    LATENCIES,
    LATENCIES,
    SPLITS,
    st.lists(SPLITS, min_size=1, max_size=40, unique=True),
    st.integers(0, 40),
)
def test_the_least_ratio_is_that_of_an_exhaustive_search(model, load, ttfts, tpots, current, splits, arrived):
    seen = window(ttfts, tpots, arrived=arrived)
    found = forecaster(load=load, seen=seen, current=current, model=model)
    forecasts = [found.forecast(split) for split in splits]
    ratios = [max(each.ttft_ms / SLO.ttft_ms, each.tpot_ms / SLO.tpot_ms) for each in forecasts]
    assert least_ratio(found, splits) == pytest.approx(min(ratios))
