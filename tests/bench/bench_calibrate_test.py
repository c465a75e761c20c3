import itertools
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semipd_bench.calibrate import REQUESTS_PER_HALF_MIN, Bounds, plan_scaling, predict_half
from semipd_bench.lanes_model import MachineModel, lane_speeds, simulate
from semipd_bench.shift import choose_slo
from semipd_bench.trace import Limits, Trace, TraceRequest, bundled_trace, read_trace
from semipd_core.partition import Partition
from semipd_core.telemetry import SloTargets

SLO = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)


def machine(**overrides):
    values = {
        "engines": 2,
        "prefill_base_ms": 20,
        "prefill_ms_per_token": 2,
        "decode_base_ms": 60,
        "decode_ms_per_row": 7,
    }
    return MachineModel(**(values | overrides))


def split(prefill=100, decode=100):
    return Partition(prefill_percent=prefill, decode_percent=decode)


def trace(*requests, duration_s=60.0):
    return Trace(
        name="t",
        requests=tuple(TraceRequest(at_s=s, prompt_tokens=p, output_tokens=o) for s, p, o in requests),
        duration_s=duration_s,
    )


@pytest.mark.parametrize(
    ("partition", "busy", "speeds"),
    [
        pytest.param(split(80, 100), (True, False), (0.8, 0), id="a lane alone runs at its cap"),
        pytest.param(split(80, 100), (False, True), (0, 1), id="the other one too"),
        pytest.param(split(100, 100), (True, True), (0.5, 0.5), id="beyond 100 caps share in proportion"),
        pytest.param(split(20, 80), (True, True), (0.2, 0.8), id="disjoint caps are kept"),
        pytest.param(split(20, 40), (True, True), (0.2, 0.4), id="what nobody may use stays idle"),
    ],
)
def test_speed_of_lanes(partition, busy, speeds):
    assert lane_speeds(partition, prefill_busy=busy[0], decode_busy=busy[1]) == pytest.approx(speeds)


def test_a_lone_request_takes_its_chunks_and_its_steps():
    (one,) = simulate(machine(engines=1, overhead_ms=5), split(), trace((0, 300, 11)))
    assert one.ttft_ms == pytest.approx(3 * 20 + 300 * 2 + 5)
    assert one.tpot_ms == pytest.approx(67)


def test_a_capped_lane_is_slower_by_its_cap():
    (one,) = simulate(machine(engines=1), split(50, 40), trace((0, 100, 5)))
    assert one.ttft_ms == pytest.approx((20 + 200) / 0.5)
    assert one.tpot_ms == pytest.approx(67 / 0.4)


def test_the_shortest_prompt_goes_first_and_engines_share_arrivals():
    both = trace((0, 2000, 1), (0.001, 2000, 1), (0.002, 50, 1))
    long_one, long_two, short = simulate(machine(), split(), both)
    assert long_one.ttft_ms == pytest.approx(long_two.ttft_ms, rel=0.2)
    assert short.ttft_ms < long_one.ttft_ms / 4


def test_the_model_agrees_with_a_step_by_step_recount():
    """The oracle walks both lanes in slices of 0.25 ms."""
    arrivals = [(0.0, 200, 6), (0.05, 64, 9), (0.3, 500, 3), (1.1, 20, 12)]
    engine = machine(engines=1, chunk_tokens=10_000, aging_tokens_per_s=0)
    predicted = simulate(engine, split(60, 80), trace(*arrivals))
    expected = _recount(engine, split(60, 80), arrivals)
    for one, (ttft_ms, tpot_ms) in zip(predicted, expected, strict=True):
        assert one.ttft_ms == pytest.approx(ttft_ms, abs=4)
        assert one.tpot_ms == pytest.approx(tpot_ms, abs=2)


def _recount(engine, partition, arrivals, slice_ms=0.25):
    first, last = {}, {}
    left = {i: output for i, (_, _, output) in enumerate(arrivals)}
    waiting, decoding, chunk, rows = [], [], None, None
    prefill_left = decode_left = now = 0.0
    pending = list(enumerate(arrivals))
    while len(last) < len(arrivals) or any(left.values()):
        while pending and pending[0][1][0] * 1e3 <= now:
            waiting.append(pending.pop(0)[0])
        if chunk is None and waiting:
            chunk = sorted(waiting, key=lambda i: arrivals[i][1])
            prefill_left = engine.prefill_ms(sum(arrivals[i][1] for i in chunk))
        if rows is None and decoding:
            rows, decode_left = list(decoding), engine.decode_ms(len(decoding))
        prefill, decode = lane_speeds(partition, prefill_busy=chunk is not None, decode_busy=rows is not None)
        now, prefill_left, decode_left = (
            now + slice_ms,
            prefill_left - prefill * slice_ms,
            decode_left - decode * slice_ms,
        )
        done = []
        if chunk is not None and prefill_left <= 0:
            done, waiting, arrived = chunk, [i for i in waiting if i not in chunk], chunk
            decoding = decoding + [i for i in arrived if left[i] > 1]
            chunk = None
        if rows is not None and decode_left <= 0:
            done, rows = [*done, *rows], None
        for i in done:
            first.setdefault(i, now)
            last[i], left[i] = now, left[i] - 1
        decoding = [i for i in decoding if left[i]]
    return [
        (first[i] - at_s * 1e3, (last[i] - first[i]) / (output - 1))
        for i, (at_s, _, output) in enumerate(arrivals)
    ]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(1, 600), st.integers(1, 30)), min_size=1, max_size=25
    ).map(sorted),
    st.sampled_from([split(100, 100), split(40, 40), split(100, 40), split(20, 100)]),
    st.integers(1, 3),
)
def test_no_request_is_faster_than_alone_and_uncapped(arrivals, partition, engines):
    engine = machine(engines=engines)
    for one, (_, prompt, output) in zip(simulate(engine, partition, trace(*arrivals)), arrivals, strict=True):
        assert one.ttft_ms >= engine.prefill_ms_per_token * prompt - 1e-6
        assert (one.tpot_ms is None) == (output == 1)
        assert one.tpot_ms is None or one.tpot_ms >= engine.decode_ms(1) - 1e-6


def plan(measured, bounds=None, lengths=(0.016, 0.025, 0.035, 0.1), rates=(0.25, 0.45)):
    """On a small grid."""
    return plan_scaling(
        measured,
        read_trace(bundled_trace()),
        SLO,
        bounds or Bounds(decode_min_percent=20),
        Limits(context_tokens=2048),
        length_factors=lengths,
        rate_factors=rates,
    )


@pytest.mark.parametrize(
    "measured",
    [
        pytest.param(machine(), id="two slow cores"),
        pytest.param(
            machine(prefill_ms_per_token=1, decode_base_ms=80, decode_ms_per_row=8), id="faster prefill"
        ),
        pytest.param(
            machine(prefill_ms_per_token=3, decode_base_ms=80, decode_ms_per_row=8), id="slower prefill"
        ),
    ],
)
def test_the_start_meets_the_first_half_and_misses_the_second_where_another_split_would_not(measured):
    bundled = read_trace(bundled_trace())
    found = plan(measured)
    first, second = found.apply(bundled).halves()
    again = [predict_half(measured, found.start, half, SLO) for half in (first, second)]
    better = predict_half(measured, found.better.partition, second, SLO)
    assert found.is_met
    assert again == [found.first, found.second]
    assert again[0].ratio <= 1
    assert again[1].ratio >= 1.1
    assert better.ratio <= 1
    assert min(len(first.requests), len(second.requests)) >= REQUESTS_PER_HALF_MIN
    assert f"start at {found.start}" in found.message


@pytest.mark.parametrize(
    "measured",
    [
        pytest.param(machine(prefill_ms_per_token=20, decode_base_ms=400), id="too slow for any load"),
        pytest.param(
            machine(prefill_ms_per_token=0.01, decode_base_ms=1, decode_ms_per_row=0.01),
            id="too fast to miss",
        ),
    ],
)
def test_a_machine_that_cannot_meet_the_condition_is_told_so_and_gets_the_closest(measured):
    found = plan(measured)
    assert not found.is_met
    assert found.message.startswith("this machine cannot meet the condition")
    assert found.requests > 0


def test_the_start_stays_inside_the_bounds_of_the_service():
    bounds = Bounds(
        prefill_min_percent=30, prefill_max_percent=70, decode_min_percent=50, decode_max_percent=90
    )
    splits = bounds.splits()
    assert split(70, 90) in splits
    assert all(30 <= s.prefill_percent <= 70 and 50 <= s.decode_percent <= 90 for s in splits)
    found = plan(machine(), bounds)
    assert found.start in splits
    assert len(set(itertools.chain(splits))) == len(splits)


@pytest.fixture(scope="module")
def scaling():
    return plan_scaling(machine(), read_trace(bundled_trace()), SLO, Bounds(), Limits(context_tokens=2048))


@pytest.mark.parametrize(
    ("met_and_ratios", "chosen"),
    [
        pytest.param([(True, 1.5), (True, 2.0)], 0, id="the first that misses by far"),
        pytest.param([(True, 1.11), (True, 1.4)], 1, id="not one that a faster machine would meet"),
        pytest.param([(True, 1.2), (True, 1.25), (True, 1.1)], 1, id="else the one that misses most"),
        pytest.param([(False, 3.0), (True, 1.2)], 1, id="none that serves nobody"),
        pytest.param([(False, 3.0), (False, 2.0)], 1, id="else the last"),
    ],
)
def test_the_slo_is_one_that_the_start_surely_misses(scaling, met_and_ratios, chosen):
    """The second half is to miss its targets also where the machine gets faster after it was measured."""
    planned = [
        (
            msgspec.structs.replace(SLO, ttft_ms=index),
            replace(scaling, is_met=met, second=replace(scaling.second, ratio=ratio)),
        )
        for index, (met, ratio) in enumerate(met_and_ratios)
    ]
    slo, found = choose_slo(iter(planned))
    assert slo.ttft_ms == chosen
    assert found.is_met == met_and_ratios[chosen][0]
