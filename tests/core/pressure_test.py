"""The pressure that replicas answer: what counts, what does not, and when nothing is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.cluster import loop as cluster
from semipd_core.cluster import pressure
from semipd_core.cluster.state import ClusterConfig
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.slo import histogram
from semipd_core.telemetry import CoordinatorReport, EngineReport, FrontEndReport, SloTargets, WindowSlot

SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
CONFIG = ClusterConfig(
    mode="Auto",
    policy="ModelPredictive",
    isolation=Isolation.MPS,
    initial=Partition(prefill_percent=80, decode_percent=100),
    bounds=Band(
        prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100
    ),
    slo=SLO,
    window_s=60.0,
    stale_after_s=30.0,
)
START_S = 1_000_000.0
ROUND_S = 15.0


def slot(at_s, count=10, *, ttft_ms=100.0, tpot_ms=15.0, missed=0, **changes):
    """`count` requests that ended in the slot of `at_s`, and `missed` of them late."""
    latencies = {} if count == 0 else {"ttft_ms": {histogram.bucket_of(ttft_ms): count}}
    if count:
        latencies["tpot_ms"] = {histogram.bucket_of(tpot_ms): count}
    usual = WindowSlot(
        start_s=int(at_s) // 2 * 2,
        arrived=count,
        completed=count,
        attained=count - missed,
        missed=missed,
        prompt_tokens=100 * count,
        output_tokens=50 * count,
        **latencies,
    )
    return usual if not changes else type(usual)(**{**as_dict(usual), **changes})


def as_dict(found):
    return {name: getattr(found, name) for name in found.__struct_fields__}


def report(engine_id, at_s, slots, open_requests=4, kv_used=100):
    front = FrontEndReport(
        at_s=at_s, ready=True, slo=SLO, open_requests=open_requests, queued_requests=1, slots=slots
    )
    coordinator = CoordinatorReport(
        waiting=0, prefilling=0, decoding=open_requests, kv_blocks_total=1000, kv_blocks_used=kv_used,
        kv_blocks_cached=0, block_tokens=16, waiting_tokens=0, oldest_wait_ms=0, preemptions=0,
        prefix_hit_tokens=0, lane_restarts=0,
    )  # fmt: skip
    return EngineReport(
        engine_id=engine_id, at_s=at_s, phase="Steady", requested=(80, 100), granted=(80, 100),
        front_end=front, coordinator=coordinator,
    )  # fmt: skip


def run(looks, config=CONFIG, state=None, *, apart_s=ROUND_S):
    """The reading after each look; `looks` gives the reports of each."""
    state = state or cluster.initial_state(config)
    readings = []
    for number, reports_at in enumerate(looks):
        now_s = START_S + number * apart_s
        state, _ = cluster.step(state, config, {each.engine_id: each for each in reports_at(now_s)}, now_s)
        readings.append(pressure.read(state.pressure, config.average_s))
    return readings


def engines(count=2, **changes):
    """Every look: each engine ended ten requests in each of its last slots."""

    def reports_at(now_s):
        slots = [slot(now_s - 2 * back, **changes) for back in range(1, 30)]
        return [report(f"chat-{number}/engine-0", now_s, slots) for number in range(count)]

    return reports_at


def silent(_now_s):
    return []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, 0.25, id="both a quarter of their targets"),
        pytest.param({"ttft_ms": 300.0}, 0.75, id="TTFT is the nearer one"),
        pytest.param({"tpot_ms": 48.0}, 0.8, id="TPOT is the nearer one"),
        pytest.param({"ttft_ms": 40_000.0, "missed": 10}, 2.0, id="clamped"),
        pytest.param(
            {"count": 10, "missed": 5},
            1.0,
            id="refused requests have no latency: the SLO is missed all the same",
        ),
        pytest.param({"count": 0}, None, id="requests are open and nothing is measured"),
    ],
)
def test_the_nearer_of_both_latencies_against_its_target(changes, expected):
    reading = run([engines(**changes)] * 5)[-1]
    if expected is None:
        assert reading is None
    else:
        assert reading.observed == pytest.approx(expected, rel=0.06)


def test_idle_is_no_pressure_and_no_data_is_no_answer():
    def idle(now_s):
        return [report("chat-1/engine-0", now_s, [], open_requests=0)]

    assert run([idle] * 5)[-1].pressure == 0.0
    assert run([silent] * 5)[-1] is None
    assert run([idle] * 4 + [silent])[-1] is None


def test_a_fleet_must_have_been_seen_for_as_long_as_the_mean_is_over():
    known = [reading is not None for reading in run([engines()] * 6)]
    assert known == [False, False, False, True, True, True]


@given(apart_s=st.floats(0.5, 15.0), averaged=st.integers(3, 5))
def test_however_often_it_looks_steady_traffic_is_never_without_a_reading(apart_s, averaged):
    config = replace(CONFIG, average_s=averaged * apart_s)
    looks = averaged + 1 + math.ceil(12.0 / apart_s)
    found = run([engines()] * looks, config, apart_s=apart_s)
    first = next(number for number, reading in enumerate(found) if reading is not None)
    known = [reading and reading.pressure for reading in found[first:]]
    assert known == pytest.approx([0.25] * len(known), rel=0.03), "within a bucket's width"
    assert first <= max(averaged + 1, math.ceil(4.0 / apart_s) + 1)


@pytest.mark.parametrize(
    ("before", "now", "is_anew"),
    [
        pytest.param(2, 3, True, id="a third engine"),
        pytest.param(3, 2, True, id="one of three goes"),
        pytest.param(20, 19, False, id="one of twenty is silent for a look"),
    ],
)
def test_what_another_fleet_did_is_no_measure_of_this_one(before, now, is_anew):
    readings = run([engines(before, ttft_ms=390.0)] * 4 + [engines(now)] * 4)
    assert readings[3].observed == pytest.approx(0.975, rel=0.06)
    assert (readings[4] is None) is is_anew
    assert readings[-1] is not None
    if is_anew:
        assert readings[-1].observed == pytest.approx(0.25, rel=0.06)


def test_a_move_of_the_split_begins_anew():
    state = cluster.initial_state(CONFIG)
    for number in range(4):
        now_s = START_S + number * ROUND_S
        found = {each.engine_id: each for each in engines()(now_s)}
        state, _ = cluster.step(state, CONFIG, found, now_s)
    assert pressure.read(state.pressure, CONFIG.average_s) is not None
    now_s = START_S + 4 * ROUND_S
    moved = replace(state, settled_s=now_s - 1)
    state, _ = cluster.step(moved, CONFIG, {each.engine_id: each for each in engines()(now_s)}, now_s)
    assert pressure.read(state.pressure, CONFIG.average_s) is None


def test_the_look_at_which_a_fleet_is_new_has_no_window_and_is_not_idle():
    def between_requests(now_s):
        return [report("chat-1/engine-0", now_s, [slot(now_s - 4, ttft_ms=390.0)], open_requests=0)]

    assert run([between_requests] * 4)[-1].observed == pytest.approx(0.975, rel=0.06)


def test_two_requests_are_no_percentile_and_alarm_nobody():
    def two_slow(now_s):
        return [report("chat-1/engine-0", now_s, [slot(now_s - 4, 2, ttft_ms=390.0)], open_requests=0)]

    assert run([two_slow] * 5)[-1].pressure == pressure.UP_PRESSURE


def track(observed, relieved, missed_s=None):
    """Four looks, the last at 45 s; the SLO missed for `missed_s`."""
    load = pressure.FleetLoad(engines=2, open_requests=20, queued_requests=2, kv_used_ratio=0.1)
    samples = tuple(
        pressure.PressureSample(
            at_s=15.0 * number, observed=observed, relieved=relieved, load=load, tokens_per_s=300.0
        )
        for number in range(4)
    )
    return pressure.PressureTrack(
        engines=2,
        since_s=0.0,
        looked_s=45.0,
        missed_since_s=None if missed_s is None else 45.0 - missed_s,
        load=load,
        samples=samples,
    )


@pytest.mark.parametrize(
    ("observed", "relieved", "missed_s", "expected", "is_left"),
    [
        pytest.param(0.8, 0.3, None, 0.3, True, id="a better split is expected to be enough"),
        pytest.param(0.8, 0.7, None, 0.7, False, id="no split is enough: what is left counts"),
        pytest.param(1.3, 0.3, 60.0, 0.3, True, id="missed, and the split gets its time"),
        pytest.param(1.3, 0.3, 90.0, 1.3, False, id="missed for too long: the forecast is wrong"),
        pytest.param(0.4, 0.4, None, 0.4, False, id="nothing to relieve"),
    ],
)
def test_the_split_answers_before_replicas_do(observed, relieved, missed_s, expected, is_left):
    reading = pressure.read(track(observed, relieved, missed_s), 45.0)
    assert reading.pressure == pytest.approx(expected)
    assert reading.is_left_to_split is is_left


def test_how_long_the_slo_is_missed_is_counted_over_moves_of_the_split():
    late = engines(ttft_ms=500.0, missed=10)
    state = cluster.initial_state(CONFIG)
    for number in range(8):
        now_s = START_S + number * ROUND_S
        state = replace(state, settled_s=now_s - 20 if number % 2 else state.settled_s)
        state, _ = cluster.step(state, CONFIG, {each.engine_id: each for each in late(now_s)}, now_s)
    assert state.pressure.missed_since_s == START_S + 2 * ROUND_S, "the first look after the first move"


def test_a_split_that_moves_for_ever_keeps_replicas_waiting_only_as_long_as_it_is_believed():
    late = engines(ttft_ms=500.0, missed=10)
    state, known = cluster.initial_state(CONFIG), []
    for number in range(12):
        now_s = START_S + number * ROUND_S
        state = replace(state, settled_s=now_s - 20 if number % 2 else state.settled_s)
        state, _ = cluster.step(state, CONFIG, {each.engine_id: each for each in late(now_s)}, now_s)
        known.append(pressure.read(state.pressure, CONFIG.average_s))
    assert known[:10] == [None] * 10
    assert known[-1].pressure >= pressure.MISSED
