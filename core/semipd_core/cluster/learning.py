"""What a round teaches: how long steps take, how latency follows the share, and in which bands the SLO was met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from semipd_core.cluster.state import ClusterConfig, ClusterState
from semipd_core.partition import Band, Role
from semipd_core.policies.decision import PolicyInputs
from semipd_core.slo.pooled import WindowState
from semipd_core.telemetry import EngineReport

MIN_POINT_S = 8.0  # a shorter window gives the curves no point
MIN_POINT_REQUESTS = 5
STEPS_PER_ROUND = 64  # of each role, of all engines together, but one of each; a fit counts about 500


def learn_steps(state: ClusterState, fresh: Mapping[str, EngineReport]) -> ClusterState:
    """From so many of each engine's steps that a round does not make the last one forgotten, but for hundreds of engines."""
    samples = {
        engine_id: report.coordinator.samples
        for engine_id, report in sorted(fresh.items())
        if report.coordinator is not None
    }
    most = max(1, STEPS_PER_ROUND // max(1, len(samples)))
    return replace(state, steps=state.steps.observe_all(samples, most))


def learn_proven(state: ClusterState, config: ClusterConfig, inputs: PolicyInputs) -> ClusterState:
    is_judged = inputs.window_state is WindowState.MET and inputs.window.judged >= config.canary_requests
    return state if not is_judged or state.canary is not None else prove(state, state.band)


def prove(state: ClusterState, band: Band) -> ClusterState:
    return replace(state, proven=band if state.proven is None else state.proven.hull(band))


def learn_curves(state: ClusterState, inputs: PolicyInputs) -> ClusterState:
    """One point per window, at the effective share of each lane, as semi-PD's Algorithm 1 refits at each window."""
    window, slo = inputs.window, inputs.slo
    is_due = inputs.now_s - state.point_s >= window.seconds >= MIN_POINT_S
    if not is_due or window.completed < MIN_POINT_REQUESTS or state.canary is not None:
        return state
    curves, steps = state.curves, inputs.steps
    prefill, decode = (inputs.current.percent(role) for role in (Role.PREFILL, Role.DECODE))
    ttft_ms = window.ttft_percentile_ms(slo.ttft_percentile)
    tpot_ms = window.tpot_percentile_ms(slo.tpot_percentile)
    if ttft_ms is not None:
        curves = curves.with_ttft(
            100 * steps.curve_of(Role.PREFILL).contended_speed(prefill, decode), ttft_ms
        )
    if tpot_ms is not None:
        curves = curves.with_tpot(100 * steps.curve_of(Role.DECODE).contended_speed(decode, prefill), tpot_ms)
    return replace(state, curves=curves, point_s=inputs.now_s)
