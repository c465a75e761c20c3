"""Which changes of a service are worth an Event? Conditions that flip, and decisions that move the split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType, find_condition
from semipd_core.api.service import CanaryStage, CanaryStatus, ServiceStatus
from semipd_core.policies.decision import Reason
from semipd_operator.plan.scaling import FOUND

# With a status that is a reason to look.
_BAD = {
    ConditionType.READY: ConditionStatus.FALSE,
    ConditionType.SLO_MET: ConditionStatus.FALSE,
    ConditionType.METRICS_AVAILABLE: ConditionStatus.FALSE,
    ConditionType.DEGRADED: ConditionStatus.TRUE,
    ConditionType.SCALING_ACTIVE: ConditionStatus.FALSE,
}
_ROLLOUTS = (
    Reason.ROLLOUT_STARTED,
    Reason.ROLLOUT_WIDENED,
    Reason.ROLLOUT_PASSED,
    Reason.ROLLOUT_FAILED,
    Reason.ROLLOUT_EXPIRED,
    Reason.ROLLOUT_REVERTED,
    Reason.ROLLOUT_PLAIN,
)
_ROLL_BACKS = (Reason.CANARY_FAILED, Reason.CANARY_EXPIRED)
_TOLD = (ConditionType.READY, ConditionType.SLO_MET, ConditionType.DEGRADED, ConditionType.SCALING_ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    reason: str  # CamelCase; with the object, what makes two events the same
    note: str
    is_warning: bool = False
    detail: str = ""  # what else makes two events the same


def find_transitions(old: ServiceStatus | None, new: ServiceStatus) -> Iterator[Transition]:
    """A service that is seen for the first time has none: its history is not known."""
    if old is None:
        return
    for kind in _TOLD:
        before, now = find_condition(old.conditions, kind), find_condition(new.conditions, kind)
        if before is not None and now is not None and _is_told(before, now):
            yield Transition(
                reason=_name(now),
                note=f"{now.reason}: {now.message}".rstrip(": "),
                is_warning=_BAD[kind] is now.status,
            )
    yield from _of_isolation(old, new)
    yield from _of_canary(old, new)
    yield from _of_rollout(old, new)
    if old.requested is not None and new.requested is not None and old.requested != new.requested:
        latest = new.decisions[0] if new.decisions else None
        why = f": {latest.reason}: {latest.message}" if latest and latest.partition == new.requested else ""
        split = f"({new.requested.prefill_percent}, {new.requested.decode_percent})"
        yield Transition(reason="SplitMoved", note=f"the split moves to {split}{why}")
    yield from _scalings(old, new)


def _scalings(old: ServiceStatus, new: ServiceStatus) -> Iterator[Transition]:
    """Each change is an event of its own: how often a service was scaled says little, from what to what much."""
    for record in new.scalings:
        if record not in old.scalings and record.reason != FOUND:
            change = f"{record.from_replicas} -> {record.to_replicas}"
            is_up = record.to_replicas > record.from_replicas
            yield Transition(
                reason="ScaledUp" if is_up else "ScaledDown",
                note=f"replicas {change}: {record.reason}: {record.message}",
                detail=change,
            )


def _of_isolation(old: ServiceStatus, new: ServiceStatus) -> Iterator[Transition]:
    """When a first pod falls back: the condition is there only as long as one has."""
    now = find_condition(new.conditions, ConditionType.ISOLATION_PREFERRED)
    if now is not None and find_condition(old.conditions, now.type) is None:
        yield Transition(reason=_name(now), note=f"{now.reason}: {now.message}", is_warning=True)


def _of_canary(old: ServiceStatus, new: ServiceStatus) -> Iterator[Transition]:
    """Its stages; that it passed is told by the move of all."""
    before, now = old.canary, new.canary
    if now is None or (before is not None and _stage(before) == _stage(now)):
        return
    split = f"({now.partition.prefill_percent}, {now.partition.decode_percent})"
    told = next((each for each in new.decisions if each.reason in _ROLL_BACKS), None)
    latest = new.decisions[0] if new.decisions else None
    if now.stage is CanaryStage.ROLLED_BACK:
        reason, note = ("CanaryFailed", split) if told is None else (told.reason, told.message)
        yield Transition(reason=reason, note=note, is_warning=True)
    elif now.stage is CanaryStage.ONE_POD:
        yield Transition(reason="CanaryStarted", note=f"{split} is tried in {', '.join(now.pods)}")
    else:
        why = f": {latest.message}" if latest else ""
        yield Transition(reason="CanaryWidened", note=f"{split} is tried in {len(now.pods)} pods{why}")


def _of_rollout(old: ServiceStatus, new: ServiceStatus) -> Iterator[Transition]:
    """Of a new pod template: each step is a decision of its own."""
    for record in reversed(new.decisions):
        if record.reason in _ROLLOUTS and record not in old.decisions:
            yield Transition(
                reason=record.reason,
                note=record.message,
                is_warning=record.reason in (Reason.ROLLOUT_FAILED, Reason.ROLLOUT_EXPIRED),
            )


def _stage(canary: CanaryStatus) -> tuple[str, CanaryStage]:
    return canary.decision_id, canary.stage


def _is_told(before: Condition, now: Condition) -> bool:
    """From and to Unknown is no news: nothing is known."""
    return before.status is not now.status and ConditionStatus.UNKNOWN not in (before.status, now.status)


def _name(condition: Condition) -> str:
    return condition.type if condition.status is ConditionStatus.TRUE else f"Not{condition.type}"
