"""What the cluster loop is told of a service in a cluster, and what becomes of its state when that changes."""

from __future__ import annotations

from dataclasses import replace

from semipd_core.agent_config import PartitionSettings
from semipd_core.api.fields import Device
from semipd_core.api.service import PartitionMode
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import (
    OWN_PREFIX,
    ClusterConfig,
    ClusterState,
    TimedDecision,
    band_around,
    decision_id_at,
)
from semipd_core.partition import Band, Partition, Wish
from semipd_core.policies.decision import Decision, Reason
from semipd_core.policies.splits import nearest_split
from semipd_core.profile.start import start_on_a_gpu
from semipd_core.service_settings import slo_targets
from semipd_operator.plan.effective import Effective

ROUNDS_PER_WINDOW = 4
MIN_WINDOW_S = 20.0
ROUNDS_PER_JUDGEMENT = 2
MIN_JUDGEMENT_S = 10.0
PINNED_PREFIX = "pinned-"  # of the decision ids of pins
ROUNDS_PER_AVERAGE = 3  # 45 s at the usual 15 s


def loop_config(
    effective: Effective,
    round_s: float,
    *,
    partition: PartitionSettings | None = None,
    pin: Partition | None = None,
    paused: bool = False,
    canary_start_s: float = 1800.0,
    template_on_trial: bool = False,
) -> ClusterConfig:
    """`round_s`: the time from one look to the next. `partition`: as the pods have it; None: as they are to have it."""
    spec, is_cpu = effective.spec, effective.device is Device.CPU
    return replace(
        ClusterConfig.of_settings(
            partition or effective.partition,
            slo_targets(spec.slo),
            takes_turns=is_cpu,
            start=None if is_cpu else start_on_a_gpu(),
        ),
        moves_per_hour=effective.max_switches_per_hour,
        window_s=max(MIN_WINDOW_S, ROUNDS_PER_WINDOW * round_s),
        stale_after_s=2 * round_s,
        settle_s=2 * round_s,
        pin=pin,
        paused=paused,
        subject=f"{spec.model.uri} by {effective.image}",
        canary_percent=spec.rollout.canary_percent,
        canary_window_s=max(MIN_JUDGEMENT_S, ROUNDS_PER_JUDGEMENT * round_s),
        average_s=ROUNDS_PER_AVERAGE * round_s,
        canary_start_s=canary_start_s,
        template_on_trial=template_on_trial,
    )


def fit_state(
    state: ClusterState, config: ClusterConfig, now_s: float, before: ClusterConfig | None = None
) -> ClusterState:
    """`state` under a config that may be new, with all that it has learned; `before`: the config until now.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    if before is not None and before.subject != config.subject:
        state = replace(state, proven=None, refusals=(), canary=None)
    if config.template_on_trial and state.canary is not None:
        why = f"{state.canary.wish.target} is taken back to {state.target}: a new pod template is on trial"
        state = note(replace(state, canary=None), Reason.TEMPLATE_ON_TRIAL, why, now_s)
    if before is not None and before.paused and not config.paused and state.canary is not None:
        state = replace(state, canary=replace(state.canary, stage_s=now_s, granted_s=None))
    fixed = fixed_wish(config, state.target)
    if fixed is not None:
        return _fix(state, fixed, now_s)
    if not state.decision_id.startswith(OWN_PREFIX):
        return _release(state, config, now_s)
    has_changed = before is not None and before.isolation is not config.isolation
    if state.target not in config.splits or not config.bounds.encloses(state.band):
        target = nearest_split(config.splits, state.target)
        if has_changed:
            why = f"pods run with isolation {config.isolation} now: {target} is the nearest split that all can run"
            return _go_on(state, config, target, Reason.ISOLATION_CHANGED, why, now_s)
        why = f"the bounds have changed: {target} is the nearest split inside them"
        return _go_on(state, config, target, Reason.BOUNDS_CHANGED, why, now_s)
    canary = state.canary
    if has_changed and canary is not None and canary.wish.target not in config.splits:
        why = f"{canary.wish.target} is taken back to {state.target}: isolation {config.isolation} cannot run it"
        return note(replace(state, canary=None), Reason.ISOLATION_CHANGED, why, now_s)
    if canary is not None and not config.bounds.encloses(canary.wish.band):
        why = f"the bounds have changed: {canary.wish.target} is taken back to {state.target}"
        return note(replace(state, canary=None), Reason.BOUNDS_CHANGED, why, now_s)
    return state


def wish_of(state: ClusterState, config: ClusterConfig) -> Wish:
    """What every pod but the canaries is asked for."""
    return fixed_wish(config, state.target) or state.wish


def fixed_wish(config: ClusterConfig, asked: Partition) -> Wish | None:
    """A pin, in any mode; else in `Static` the initial split, in `Advisory` what pods are asked for (`asked`).

    It leaves the agents no room. None: the mode is `Auto`.
    """
    if config.pin is not None:
        message = f"pinned by hand: the service stays at {config.pin}"
        return _fixed(config.pin, PINNED_PREFIX, Reason.PINNED, message)
    if config.mode == PartitionMode.AUTO:
        return None
    is_advised = config.mode == PartitionMode.ADVISORY
    target = nearest_split(config.splits, asked) if is_advised else initial_state(config).target
    message = f"mode {config.mode}: the service stays at {target}"
    return _fixed(target, f"{config.mode.lower()}-", config.mode, message)


def _fixed(target: Partition, prefix: str, reason: str, message: str) -> Wish:
    return Wish(
        target=target,
        band=Band.only(target),
        decision_id=f"{prefix}{target.prefill_percent}-{target.decode_percent}",
        reason=reason,
        message=message,
        pinned=True,
    )


def _fix(state: ClusterState, fixed: Wish, now_s: float) -> ClusterState:
    if state.decision_id == fixed.decision_id:
        return state
    state = state.asked(fixed, now_s)
    return note(state, Reason.PINNED, fixed.message, now_s) if fixed.reason == Reason.PINNED else state


def _release(state: ClusterState, config: ClusterConfig, now_s: float) -> ClusterState:
    """From a pin or another mode back to the loop, which goes on from there."""
    target = nearest_split(config.splits, state.target)
    was_pinned = state.decision_id.startswith(PINNED_PREFIX)
    why = "the pin is gone" if was_pinned else "the mode is Auto"
    reason = Reason.UNPINNED if was_pinned else Reason.MODE_CHANGED
    return _go_on(state, config, target, reason, f"{why}: the loop goes on from {target}", now_s)


def _go_on(
    state: ClusterState, config: ClusterConfig, target: Partition, reason: Reason, message: str, now_s: float
) -> ClusterState:
    wish = Wish(
        target=target,
        band=band_around(target, config),
        decision_id=decision_id_at(now_s, f"{reason.lower()}-"),
        reason=reason,
        message=message,
    )
    return note(state.asked(wish, now_s), reason, message, now_s)


def note(state: ClusterState, reason: Reason, message: str, now_s: float) -> ClusterState:
    """With a decision that is not the policy's."""
    decision = Decision(partition=state.target, reason=reason, message=message)
    return state.noted(
        TimedDecision(at_s=now_s, decision=decision, changed=True, decision_id=state.decision_id)
    )
