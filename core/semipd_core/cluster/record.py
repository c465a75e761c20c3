"""The last decisions, without a line for each round in which nothing changed."""

from __future__ import annotations

from dataclasses import replace

from semipd_core.cluster.state import ClusterConfig, ClusterState, TimedDecision
from semipd_core.policies.decision import Decision, Reason


def remember(
    state: ClusterState,
    config: ClusterConfig,
    decision: Decision,
    advice: Decision,
    now_s: float,
    *,
    changed: bool,
) -> ClusterState:
    """A hold for the same reason as the one before takes its place, so that moves stay in sight."""
    if decision.reason is Reason.CANARY and not changed:
        return state  # the stage's beginning is there
    is_advice = decision.reason is Reason.ADVISORY
    if is_advice:
        decision = replace(decision, partition=advice.partition)
    decision_id = state.canary.wish.decision_id if changed and state.canary else state.decision_id
    timed = TimedDecision(at_s=now_s, decision=decision, changed=changed, decision_id=decision_id)
    last = state.decisions[0] if state.decisions else None
    if last is None or changed or last.decision.reason is not decision.reason:
        return state.noted(timed)
    if decision.reason is Reason.PINNED and last.decision.partition == decision.partition:
        return state
    if last.changed:
        return state.noted(timed)
    if is_advice and last.decision.partition != decision.partition:
        return state if now_s - last.at_s < config.cooldown_s else state.noted(timed)
    timed = replace(timed, at_s=last.at_s, decision_id=last.decision_id)
    return replace(state, decisions=(timed, *state.decisions[1:]))
