"""One round of the cluster loop: pool the windows of all engines, learn, decide target and band, say who needs a wish.

    state = initial_state(config)
    state, round = step(state, config, {engine_id: report or None}, now_s)     # now_s: unix time, every period
    for engine_id, wish in round.wishes.items(): ...                           # to the engine's agent

No I/O and no clock. The policy decides; the guards may hold it back and then say so (`guards`). A move into a band that has not
been proven goes to a few pods first (`rollout`), if the config asks for that. A wish in force that somebody else has put (by
hand, say) becomes the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from semipd_core.cluster import pressure
from semipd_core.cluster.canary import Fleet, Member, Refusal
from semipd_core.cluster.guards import guard, recent_moves
from semipd_core.cluster.learning import learn_curves, learn_proven, learn_steps, prove
from semipd_core.cluster.record import remember
from semipd_core.cluster.rollout import begin, follow
from semipd_core.cluster.state import (
    OWN_PREFIX,
    ClusterConfig,
    ClusterRound,
    ClusterState,
    band_around,
    decision_id_at,
    initial_state,
)
from semipd_core.cluster.verdicts import Verdicts
from semipd_core.latency.load import measure_load
from semipd_core.node.observation import running_split
from semipd_core.partition import Partition, Wish
from semipd_core.policies import POLICIES
from semipd_core.policies.decision import Decision, PolicyInputs, Reason
from semipd_core.repartition import Phase
from semipd_core.slo.pooled import PooledWindow, classify, is_fresh, pool_reports
from semipd_core.telemetry import EngineReport

__all__ = ["ClusterConfig", "ClusterRound", "ClusterState", "Member", "initial_state", "step"]

Reports = Mapping[str, EngineReport | None]


def step(
    state: ClusterState,
    config: ClusterConfig,
    reports: Reports,
    now_s: float,
    *,
    in_force: Wish | None = None,
    fleet: Fleet | None = None,
) -> tuple[ClusterState, ClusterRound]:
    """Decide for the service. `in_force`: the wish that the engines follow at the moment, whoever put it.
    `fleet`: the pods that the engines are in, for canaries; without it all engines move at once.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    fresh = {
        engine_id: report
        for engine_id, report in reports.items()
        if report is not None and is_fresh(report, now_s=now_s, stale_after_s=config.stale_after_s)
    }
    state = learn_steps(_forget_refusals(_forget_engines(state, reports), now_s), fresh)
    if in_force is not None and not in_force.decision_id.startswith(OWN_PREFIX):
        state = _adopt(state, config, in_force, now_s)
    pinned = config.pin is not None or (in_force is not None and in_force.pinned)
    inputs = _observe(state, config, fresh, now_s)
    state = learn_proven(learn_curves(state, inputs), config, inputs)
    advice = POLICIES["Static" if config.mode == "Static" else config.policy].decide(inputs)
    if state.canary is not None and fleet is not None and not (pinned or config.paused):
        state, decision, changed = _follow_canary(state, config, fleet, fresh, now_s)
    else:
        state, decision, changed = _decide(state, config, advice, inputs, fleet, fresh, pinned=pinned)
    sends = config.mode == "Auto" and not pinned and not config.paused
    wishes = _wishes(state, config, fresh, fleet, now_s) if sends else {}
    state = remember(state, config, decision, advice, now_s, changed=changed)
    state = replace(
        state, wished={**state.wished, **{name: (wish.decision_id, now_s) for name, wish in wishes.items()}}
    )
    state = replace(state, pressure=_pressure(state, config, inputs, fresh, split_moves=sends))
    return state, ClusterRound(
        wishes=wishes,
        decision=decision,
        advice=advice,
        window=inputs.window,
        window_state=inputs.window_state,
        changed=changed,
    )


def _forget_engines(state: ClusterState, reports: Reports) -> ClusterState:
    """That are gone: pods come and go by the thousand. One that is silent is there by its own name or by its pod's."""

    def is_there(engine_id: str) -> bool:
        return engine_id in reports or engine_id.partition("/")[0] in reports

    wished = {engine_id: told for engine_id, told in state.wished.items() if is_there(engine_id)}
    return replace(state, steps=state.steps.of_engines(is_there), wished=wished)


def _forget_refusals(state: ClusterState, now_s: float) -> ClusterState:
    return replace(state, refusals=tuple(each for each in state.refusals if now_s < each.until_s))


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
        canary=None,
    )


def _observe(
    state: ClusterState, config: ClusterConfig, fresh: Mapping[str, EngineReport], now_s: float
) -> PolicyInputs:
    begin_s = now_s - config.window_s
    since_s = max(begin_s, state.settled_s + config.carry_over_s)
    demand = _pool(fresh, config, begin_s, now_s)
    window = demand if since_s == begin_s else _pool(fresh, config, since_s, now_s)
    coordinators = [report.coordinator for report in fresh.values() if report.coordinator is not None]
    return PolicyInputs(
        now_s=now_s,
        current=_most_common([*fresh.values()]) if fresh else state.target,
        splits=_splits(state, config, now_s),
        slo=config.slo,
        window=window,
        demand=demand,
        window_state=classify(window, config.slo),
        load=measure_load(coordinators, state.steps),
        steps=state.steps,
        curves=state.curves,
    )


def _pool(
    fresh: Mapping[str, EngineReport], config: ClusterConfig, since_s: float, now_s: float
) -> PooledWindow:
    return pool_reports(fresh.values(), since_s=since_s, now_s=now_s, stale_after_s=config.stale_after_s)


def _splits(state: ClusterState, config: ClusterConfig, now_s: float) -> tuple[Partition, ...]:
    """Without what failed as a canary a while ago."""
    splits = config.splits
    return tuple(split for split in splits if not state.is_refused(split, now_s)) or splits


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


def _decide(
    state: ClusterState,
    config: ClusterConfig,
    advice: Decision,
    inputs: PolicyInputs,
    fleet: Fleet | None,
    fresh: Mapping[str, EngineReport],
    *,
    pinned: bool,
) -> tuple[ClusterState, Decision, bool]:
    """Whether pods are asked for something else, and what."""
    now_s = inputs.now_s
    wants_move = advice.partition not in (inputs.current, state.target)
    decision = guard(state, config, advice, now_s, pinned=pinned, wants_move=wants_move)
    if not wants_move or decision is not advice:
        return state, replace(decision, partition=state.target), False
    wish = Wish(
        target=advice.partition,
        band=band_around(advice.partition, config),
        decision_id=decision_id_at(now_s),
        reason=advice.reason,
        message=advice.message,
    )
    moved = replace(state, moves_s=(*recent_moves(state, now_s), now_s))
    is_proven = state.proven is not None and state.proven.encloses(wish.band)
    if config.canary_percent is None or fleet is None or is_proven:
        return moved.asked(wish, now_s), decision, True
    canary = begin(fleet, fresh, wish, Verdicts.of(inputs.window), now_s)
    if canary is None:
        message = f"no pod is ready and reports; the policy says {advice.partition}: {advice.message}"
        return state, Decision(partition=state.target, reason=Reason.NO_DATA, message=message), False
    message = f"first to {canary.pods[0]}, 1 of {len(fleet)} pods: {advice.message}"
    return replace(moved, canary=canary), replace(decision, message=message), True


def _follow_canary(
    state: ClusterState,
    config: ClusterConfig,
    fleet: Fleet,
    fresh: Mapping[str, EngineReport],
    now_s: float,
) -> tuple[ClusterState, Decision, bool]:
    canary = state.canary
    assert canary is not None
    trial = follow(canary, config, fleet, fresh, now_s)
    if trial.canary is not None:
        on = Decision(partition=canary.wish.target, reason=trial.reason, message=trial.message)
        return replace(state, canary=trial.canary), on, trial.changed
    if trial.reason is Reason.CANARY_PASSED:
        message = f"all pods follow to {canary.wish.target}: {trial.message}"
        passed = prove(state, canary.wish.band).asked(canary.wish, now_s)
        return passed, Decision(partition=passed.target, reason=trial.reason, message=message), True
    refusal = Refusal(
        split=canary.wish.target,
        base=state.target,
        decision_id=canary.wish.decision_id,
        at_s=now_s,
        until_s=now_s + config.refused_for_s,
    )
    message = f"{canary.wish.target} is taken back to {state.target}: {trial.message}"
    back = replace(state, canary=None, refusals=(refusal, *state.refusals), settled_s=now_s)
    return back, Decision(partition=state.target, reason=trial.reason, message=message), True


def _wishes(
    state: ClusterState,
    config: ClusterConfig,
    fresh: Mapping[str, EngineReport],
    fleet: Fleet | None,
    now_s: float,
) -> dict[str, Wish]:
    """Engines that have not been told of the decision in force, or have left its band since."""
    pods = {engine: pod.name for pod in fleet or () for engine in pod.engines}
    wishes = {engine_id: state.wish_of(pods.get(engine_id)) for engine_id in fresh}
    return {
        engine_id: wishes[engine_id]
        for engine_id, report in fresh.items()
        if report.phase not in (Phase.FAILED, Phase.DRAINING)
        and _needs_wish(state, config, wishes[engine_id], engine_id, report, now_s)
    }


def _needs_wish(
    state: ClusterState, config: ClusterConfig, wish: Wish, engine_id: str, report: EngineReport, now_s: float
) -> bool:
    decision_id, at_s = state.wished.get(engine_id, ("", float("-inf")))
    if decision_id != wish.decision_id:
        return True
    return now_s - at_s >= config.settle_s and not wish.band.holds(running_split(report))


def _most_common(reports: Sequence[EngineReport]) -> Partition:
    """The split that most engines run; of equally common ones, the smallest."""
    counts = Counter(running_split(report) for report in reports)
    return max(
        sorted(counts, key=lambda split: (split.prefill_percent, split.decode_percent)),
        key=lambda split: counts[split],
    )
