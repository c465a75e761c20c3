"""A loop comes to the same split with a profile and without one, and is there sooner with it."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
from measured_law import Law, profile_of
from queueing_plant import (
    BOUNDS,
    CHUNK_TOKENS,
    PROMPT_TOKEN_S,
    ROW_S,
    SLO,
    STEP_S,
    Plant,
    decode_heavy,
    prefill_heavy,
)

from semipd_agent.configure import measured_curves
from semipd_core.cluster import loop as cluster
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES, RoleCurves, ShareCurve
from semipd_core.node import loop as node
from semipd_core.partition import Isolation, Partition, Role
from semipd_core.profile.fit import to_samples
from semipd_core.profile.plan import Limits
from semipd_core.profile.start import start_from

PERIOD_S, END_S = 1.0, 50.0
LAW = Law(prefill_us=(0.0, 1e6 * PROMPT_TOKEN_S, 0.0), decode_us=(1e6 * STEP_S, 1e6 * ROW_S, 0.0))
LIMITS = Limits(chunk_tokens=CHUNK_TOKENS, max_rows=32, max_context_tokens=512, kv_tokens=16_000)
PROFILE = profile_of(LAW, LIMITS)


def record(traffic, split: Partition, seed: int):
    """The windows of an engine whose split stays: (seconds, report)."""
    plant, rng = Plant(split), random.Random(seed)
    started_s = plant.now_s
    next_s, report_s, windows = started_s + traffic(rng)[0], started_s + PERIOD_S, []
    while plant.now_s < started_s + END_S:
        if plant.now_s >= next_s:
            gap_s, prompt, output = traffic(rng)
            plant.submit(prompt, output)
            next_s += gap_s
        if plant.now_s >= report_s:
            report_s += PERIOD_S
            windows.append((plant.now_s, plant.report()))
        plant.tick()
    return windows


def advise(windows, split: Partition, profile):
    """What the policy says of each window, wherever the engine goes on."""
    config = cluster.ClusterConfig(
        mode="Advisory", policy="ModelPredictive", isolation=Isolation.MPS, initial=split, bounds=BOUNDS, slo=SLO,
        start=None if profile is None else start_from(profile),
    )  # fmt: skip
    state, advice = cluster.initial_state(config), []
    for now_s, report in windows:
        state, result = cluster.step(state, config, {"engine-0": report}, now_s)
        advice.append(result.advice)
    return advice


def first_of(advice, split: Partition) -> int:
    """The window from which on the policy has named `split`."""
    return next(n for n, decision in enumerate(advice) if decision.partition == split)


def test_recorded_windows_lead_to_the_same_split_sooner_with_a_profile():
    start = Partition(prefill_percent=100, decode_percent=30)
    sooner_by = []
    for seed in range(1, 7):
        windows = record(decode_heavy, start, seed)
        without, with_profile = advise(windows, start, None), advise(windows, start, PROFILE)
        final = with_profile[-1].partition
        assert without[-1].partition == final != start
        sooner_by.append(first_of(without, final) - first_of(with_profile, final))
        assert any("no step model yet" in decision.message for decision in without)
        assert not any("no step model yet" in decision.message for decision in with_profile)
    assert min(sooner_by) >= 0
    assert max(sooner_by) > 0


def test_with_a_profile_the_first_move_goes_where_feedback_alone_creeps():
    start = Partition(prefill_percent=25, decode_percent=100)
    windows = record(prefill_heavy, start, 1)
    without, with_profile = (
        [decision.partition for decision in advise(windows, start, profile) if decision.partition != start]
        for profile in (None, PROFILE)
    )
    assert (
        without[0].prefill_percent == start.prefill_percent + 10
    )  # one step of the policy that needs no model
    assert with_profile[0].prefill_percent >= max(split.prefill_percent for split in without)


def test_a_profile_is_what_the_node_starts_from_too():
    config = node.NodeConfig(
        mode="Auto", policy="ModelPredictive", isolation=Isolation.MPS,
        initial=Partition(prefill_percent=80, decode_percent=100), slo=SLO,
    )  # fmt: skip
    assert not node.initial_state(config).steps.is_trusted
    state = node.initial_state(replace(config, start=start_from(PROFILE)))
    assert state.steps.is_trusted
    assert state.steps.decode_ms(rows=8, context_tokens=800) == pytest.approx(100.0, rel=0.05)


def test_traffic_outweighs_a_profile_that_was_wrong():
    wrong = profile_of(Law(prefill_us=LAW.prefill_us, decode_us=(3e6 * STEP_S, 3e6 * ROW_S, 0.0)), LIMITS)
    steps = start_from(wrong).steps
    assert steps.decode_ms(rows=8, context_tokens=800) == pytest.approx(300.0, rel=0.05)
    for _, report in record(decode_heavy, Partition(prefill_percent=80, decode_percent=100), 1):
        steps = steps.observe("engine-0", report.coordinator.samples)
    assert steps.decode_ms(rows=8, context_tokens=800) == pytest.approx(100.0, rel=0.35)
    assert {role for _, role in steps.seen_ns} == {Role.PREFILL, Role.DECODE}


def test_measured_curves_reach_the_choice_of_each_step_through_engine_json():
    decode = ShareCurve(saturation_percent=30, slope_beyond=0.1)
    prefill = ShareCurve(saturation_percent=70, slope_beyond=0.5)
    law = Law(curves={**dict.fromkeys(Role, prefill), Role.DECODE: decode}, takes_turns=False)
    curves = measured_curves(profile_of(law))
    assert curves is not None
    assert msgspec.json.decode(msgspec.json.encode(curves), type=RoleCurves) == curves
    assert curves.decode.lone_speed(30) == pytest.approx(decode.lone_speed(30), rel=0.05)
    assert curves.prefill.lone_speed(30) == pytest.approx(prefill.lone_speed(30), rel=0.05)


def test_a_profile_without_shares_leaves_the_curves_to_be_learned():
    law = Law(curves=dict.fromkeys(Role, ShareCurve()), takes_turns=False)
    short = profile_of(law)
    short = msgspec.structs.replace(short, points=short.points[:10])
    assert measured_curves(short) is None
    steps = start_from(short).steps
    assert steps.is_trusted
    assert steps.curve_of(Role.DECODE) == ASSUMED_GPU_CURVES.decode
    at_shares = [point for point in profile_of(law).points if point.setting.beside is None] * 10
    steps = steps.observe("engine-0", to_samples(at_shares))
    assert steps.curve_of(Role.DECODE).lone_speed(25) == pytest.approx(0.25, rel=0.15)


def test_where_lanes_take_turns_there_is_no_curve_to_measure():
    assert measured_curves(PROFILE) is None
    assert measured_curves(None) is None
