"""What holds a policy's advice back: a pin, a pause, the mode, a new template, a failed canary, cooldown, moves per hour."""

from __future__ import annotations

from semipd_core.cluster.state import HOUR_S, ClusterConfig, ClusterState
from semipd_core.policies.decision import Decision, Reason


def guard(
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

    def hold(reason: Reason, why: str) -> Decision:
        return Decision(partition=state.target, reason=reason, message=f"{why}; {would}" if why else would)

    if pinned:
        return hold(Reason.PINNED, "pinned by hand")
    if config.paused:
        return hold(Reason.PAUSED, "paused")
    if config.mode == "Advisory":
        return hold(Reason.ADVISORY, "")
    if not wants_move:
        return advice
    if config.template_on_trial:
        return hold(Reason.TEMPLATE_ON_TRIAL, "a new pod template is on trial")
    if state.is_refused(advice.partition, now_s):
        return hold(Reason.CANARY_REFUSED, f"{advice.partition} failed as a canary or is farther that way")
    recent = recent_moves(state, now_s)
    left_s = recent[-1] + config.cooldown_s - now_s if recent else 0.0
    if left_s > 0:
        return hold(Reason.COOLDOWN, f"{left_s:.0f} s of cooldown left")
    if len(recent) >= config.moves_per_hour:
        return hold(
            Reason.MOVES_SPENT, f"{len(recent)} moves in the last hour, allowed: {config.moves_per_hour}"
        )
    return advice


def recent_moves(state: ClusterState, now_s: float) -> tuple[float, ...]:
    """Unix times of the moves of the last hour, oldest first. A canary is one move, whatever becomes of it."""
    return tuple(moved_s for moved_s in state.moves_s if now_s - moved_s < HOUR_S)
