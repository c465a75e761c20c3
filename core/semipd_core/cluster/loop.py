"""One round of the cluster loop: pool the windows of all engines, learn, decide target and band, say who needs a wish.

    state = initial_state(config)
    state, round = step(state, config, {engine_id: report or None}, now_s)     # now_s: unix time, every period
    for engine_id, wish in round.wishes.items(): ...                           # to the engine's agent

No I/O and no clock. The policy decides; the guards here may hold it back and then say so: cooldown, moves per hour, a pin by
hand, `Advisory` and `Static`. A wish in force that somebody else has put (by hand, say) becomes the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from semipd_core.cluster import pressure
from semipd_core.cluster.state import (
    DECISIONS_KEPT,
    OWN_PREFIX,
    ClusterConfig,
    ClusterRound,
    ClusterState,
    TimedDecision,
    band_around,
    decision_id_at,
    initial_state,
)
from semipd_core.latency.load import measure_load
from semipd_core.node.observation import running_split
from semipd_core.partition import Partition, Role, Wish
from semipd_core.policies import POLICIES
from semipd_core.policies.decision import Decision, PolicyInputs, Reason
from semipd_core.repartition import Phase
from semipd_core.slo.pooled import classify, is_fresh, pool_reports
from semipd_core.telemetry import EngineReport

__all__ = ["ClusterConfig", "ClusterRound", "ClusterState", "initial_state", "step"]

HOUR_S = 3600.0
MIN_POINT_S = 8.0  # a shorter window gives the curves no point
MIN_POINT_REQUESTS = 5

Reports = Mapping[str, EngineReport | None]


def step(
    state: ClusterState,
    config: ClusterConfig,
    reports: Reports,
    now_s: float,
    *,
    in_force: Wish | None = None,
) -> tuple[ClusterState, ClusterRound]:
    """Decide for the service. `in_force`: the wish that the engines follow at the moment, whoever put it.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    fresh = {
        engine_id: report
        for engine_id, report in reports.items()
        if report is not None and is_fresh(report, now_s=now_s, stale_after_s=config.stale_after_s)
    }
    state = _learn_steps(state, fresh)
    if in_force is not None and not in_force.decision_id.startswith(OWN_PREFIX):
        state = _adopt(state, config, in_force, now_s)
    pinned = in_force is not None and in_force.pinned
    inputs = _observe(state, config, fresh, now_s)
    state = _learn_curves(state, inputs)
    advice = POLICIES["Static" if config.mode == "Static" else config.policy].decide(inputs)
    wants_move = advice.partition not in (inputs.current, state.target)
    decision = _guard(state, config, advice, now_s, pinned=pinned, wants_move=wants_move)
    changed = wants_move and decision is advice
    if changed:
        state = _move(state, config, advice, now_s)
    else:
        decision = replace(decision, partition=state.target)
    sends = config.mode == "Auto" and not pinned
    wishes = _wishes(state, config, fresh, now_s) if sends else {}
    state = _remember(state, decision, wishes, now_s, changed=changed)
    state = replace(state, pressure=_pressure(state, config, inputs, fresh, split_moves=sends))
    return state, ClusterRound(
        wishes=wishes,
        decision=decision,
        advice=advice,
        window=inputs.window,
        window_state=inputs.window_state,
        changed=changed,
    )


def _learn_steps(state: ClusterState, fresh: Mapping[str, EngineReport]) -> ClusterState:
    steps = state.steps
    for engine_id, report in sorted(fresh.items()):
        if report.coordinator is not None:
            steps = steps.observe(engine_id, report.coordinator.samples)
    return replace(state, steps=steps)


def _adopt(state: ClusterState, config: ClusterConfig, wish: Wish, now_s: float) -> ClusterState:
    """Somebody else's wish is the new target; without a pin the engines are told so, with a band of ours."""
    if wish.target == state.target and state.reason == Reason.ADOPTED:
        return state
    return replace(
        state,
        target=wish.target,
        band=band_around(wish.target, config),
        decision_id=decision_id_at(now_s),
        reason=Reason.ADOPTED,
        message=f"{wish.target} was asked for ({wish.reason}): it is the new target",
        settled_s=now_s,
    )


def _observe(
    state: ClusterState, config: ClusterConfig, fresh: Mapping[str, EngineReport], now_s: float
) -> PolicyInputs:
    demand, window = (
        pool_reports(fresh.values(), since_s=since_s, now_s=now_s, stale_after_s=config.stale_after_s)
        for since_s in (
            now_s - config.window_s,
            max(now_s - config.window_s, state.settled_s + config.carry_over_s),
        )
    )
    coordinators = [report.coordinator for report in fresh.values() if report.coordinator is not None]
    return PolicyInputs(
        now_s=now_s,
        current=_most_common([*fresh.values()]) if fresh else state.target,
        splits=config.splits,
        slo=config.slo,
        window=window,
        demand=demand,
        window_state=classify(window, config.slo),
        load=measure_load(coordinators, state.steps),
        steps=state.steps,
        curves=state.curves,
    )


def _learn_curves(state: ClusterState, inputs: PolicyInputs) -> ClusterState:
    """One point per window, at the effective share of each lane, as semi-PD's Algorithm 1 refits at each window."""
    window, slo = inputs.window, inputs.slo
    is_due = inputs.now_s - state.point_s >= window.seconds >= MIN_POINT_S
    if not is_due or window.completed < MIN_POINT_REQUESTS:
        return state
    curves, curve = state.curves, inputs.steps.curve
    prefill, decode = (inputs.current.percent(role) for role in (Role.PREFILL, Role.DECODE))
    ttft_ms = window.ttft_percentile_ms(slo.ttft_percentile)
    tpot_ms = window.tpot_percentile_ms(slo.tpot_percentile)
    if ttft_ms is not None:
        curves = curves.with_ttft(100 * curve.contended_speed(prefill, decode), ttft_ms)
    if tpot_ms is not None:
        curves = curves.with_tpot(100 * curve.contended_speed(decode, prefill), tpot_ms)
    return replace(state, curves=curves, point_s=inputs.now_s)


def _pressure(
    state: ClusterState,
    config: ClusterConfig,
    inputs: PolicyInputs,
    fresh: Mapping[str, EngineReport],
    *,
    split_moves: bool,
) -> pressure.PressureTrack:
    return pressure.look(
        state.pressure,
        inputs,
        fresh,
        since_s=max(inputs.now_s - config.window_s, state.settled_s + config.carry_over_s),
        settled_s=state.settled_s,
        average_s=config.average_s,
        split_moves=split_moves,
    )


def _guard(
    state: ClusterState,
    config: ClusterConfig,
    advice: Decision,
    now_s: float,
    *,
    pinned: bool,
    wants_move: bool,
) -> Decision:
    """`advice` itself where it may be followed; else a hold that says why not."""
    would = f"the policy says {advice.partition} ({advice.reason}): {advice.message}"
    if pinned:
        return Decision(partition=state.target, reason=Reason.PINNED, message=f"pinned by hand; {would}")
    if config.mode == "Advisory":
        return Decision(partition=state.target, reason=Reason.ADVISORY, message=would)
    if not wants_move:
        return advice
    recent = [moved_s for moved_s in state.moves_s if now_s - moved_s < HOUR_S]
    left_s = recent[-1] + config.cooldown_s - now_s if recent else 0.0
    if left_s > 0:
        return Decision(
            partition=state.target,
            reason=Reason.COOLDOWN,
            message=f"{left_s:.0f} s of cooldown left; {would}",
        )
    if len(recent) >= config.moves_per_hour:
        return Decision(
            partition=state.target,
            reason=Reason.MOVES_SPENT,
            message=f"{len(recent)} moves in the last hour, allowed: {config.moves_per_hour}; {would}",
        )
    return advice


def _move(state: ClusterState, config: ClusterConfig, advice: Decision, now_s: float) -> ClusterState:
    kept = tuple(moved_s for moved_s in state.moves_s if now_s - moved_s < HOUR_S)
    return replace(
        state,
        target=advice.partition,
        band=band_around(advice.partition, config),
        decision_id=decision_id_at(now_s),
        reason=advice.reason,
        message=advice.message,
        moves_s=(*kept, now_s),
        settled_s=now_s,
    )


def _wishes(
    state: ClusterState, config: ClusterConfig, fresh: Mapping[str, EngineReport], now_s: float
) -> dict[str, Wish]:
    """Engines that have not been told of the decision in force, or have left its band since."""
    wish = Wish(
        target=state.target,
        band=state.band,
        decision_id=state.decision_id,
        reason=state.reason,
        message=state.message,
    )
    return {
        engine_id: wish
        for engine_id, report in fresh.items()
        if report.phase not in (Phase.FAILED, Phase.DRAINING)
        and _needs_wish(state, config, engine_id, report, now_s)
    }


def _needs_wish(
    state: ClusterState, config: ClusterConfig, engine_id: str, report: EngineReport, now_s: float
) -> bool:
    decision_id, at_s = state.wished.get(engine_id, ("", float("-inf")))
    if decision_id != state.decision_id:
        return True
    return now_s - at_s >= config.settle_s and not state.band.holds(running_split(report))


def _remember(
    state: ClusterState, decision: Decision, wishes: Mapping[str, Wish], now_s: float, *, changed: bool
) -> ClusterState:
    """A hold for the same reason as the one before takes its place, so that moves stay in sight."""
    told = {engine_id: (wish.decision_id, now_s) for engine_id, wish in wishes.items()}
    last = state.decisions[0] if state.decisions else None
    at_s, older = now_s, state.decisions
    if last is not None and not changed and not last.changed and last.decision.reason is decision.reason:
        at_s, older = last.at_s, state.decisions[1:]
    timed = TimedDecision(at_s=at_s, decision=decision, changed=changed)
    return replace(state, wished={**state.wished, **told}, decisions=(timed, *older)[:DECISIONS_KEPT])


def _most_common(reports: Sequence[EngineReport]) -> Partition:
    """The split that most engines run; of equally common ones, the smallest."""
    counts = Counter(running_split(report) for report in reports)
    return max(
        sorted(counts, key=lambda split: (split.prefill_percent, split.decode_percent)),
        key=lambda split: counts[split],
    )
