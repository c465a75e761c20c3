"""What keeps the loop from moving the split of a service, in words."""

from __future__ import annotations

from collections.abc import Iterator

from semipd_core.api.conditions import ConditionStatus, ConditionType, find_condition
from semipd_core.api.service import CanaryStage, PartitionMode, ServiceStatus
from semipd_core.cluster.state import moved_at_s
from semipd_core.policies.decision import Reason
from semipd_core.telemetry import Wire
from semipd_kubectl.observe.objects import PAUSE_ANNOTATION, PIN_ANNOTATION, ServiceView
from semipd_kubectl.reports.trial import CanaryReport
from semipd_kubectl.reports.values import DecisionReport, unix_s

HOUR_S = 3600.0


class Hold(Wire, frozen=True, kw_only=True):
    """What keeps the loop from moving the split: `kind` is one word of it."""

    kind: str
    text: str


def moves_of_last_hour_s(view: ServiceView, now_s: float) -> list[float]:
    """Unix times, oldest first, by the ids of what was decided: so an operator that starts anew counts its moves."""
    status = view.service.status or ServiceStatus()
    ids = {each.spec.decision_id for each in view.partitions.values()}
    ids |= {each.decision_id for each in status.decisions}
    ids |= {status.canary.decision_id} if status.canary is not None else set()
    times = [moved_at_s(each) for each in ids]
    return sorted(time for time in times if time is not None and now_s - time < HOUR_S)


def cooldown_left_s(moves_s: list[float], cooldown_s: int, now_s: float) -> int:
    """`moves_s`: as `moves_of_last_hour_s` has them."""
    left_s = moves_s[-1] + cooldown_s - now_s if moves_s else 0.0
    return max(0, min(cooldown_s, round(left_s)))  # clocks may differ


def find_holds(
    view: ServiceView,
    decisions: list[DecisionReport],
    canary: CanaryReport | None,
    moves_s: list[float],
    now_s: float,
) -> Iterator[Hold]:
    """In the order in which they weigh: what comes first makes the rest idle."""
    spec = view.service.spec.partition
    if view.is_paused:
        yield Hold(
            kind="Paused", text=f"it is paused ({PAUSE_ANNOTATION}): the operator writes nothing of it"
        )
    status = view.service.status or ServiceStatus()
    degraded = find_condition(status.conditions, ConditionType.DEGRADED)
    if degraded is not None and degraded.status is ConditionStatus.TRUE:
        yield Hold(kind=degraded.reason, text=f"it is degraded ({degraded.reason}): {degraded.message}")
    if view.pin is not None:
        yield Hold(kind="Pinned", text=f"it is pinned to {view.pin} ({PIN_ANNOTATION})")
    if spec.mode is PartitionMode.STATIC:
        yield Hold(kind="Static", text="mode Static leaves it at spec.partition.initial")
    if spec.mode is PartitionMode.ADVISORY:
        yield Hold(kind="Advisory", text="mode Advisory says what it would do and applies nothing")
    if spec.mode is not PartitionMode.AUTO:
        return
    if canary is not None:
        yield from _trial_hold(canary, now_s)
    left_s = cooldown_left_s(moves_s, spec.cooldown_seconds, now_s)
    if left_s:
        yield Hold(
            kind="Cooldown", text=f"{left_s} s are left of the {spec.cooldown_seconds} s between two moves"
        )
    yield from _hourly_hold(view, decisions, len(moves_s))
    yield from _silent_hold(decisions)
    yield from _bounds_holds(view, status)


def _trial_hold(canary: CanaryReport, now_s: float) -> Iterator[Hold]:
    if canary.stage != CanaryStage.ROLLED_BACK:
        yield Hold(
            kind="Canary",
            text=f"{canary.partition} is on trial, and nothing else is asked for until that is over",
        )
        return
    until_s = None if canary.refused_until is None else unix_s(canary.refused_until)
    if until_s is not None and now_s < until_s:
        text = f"{canary.partition}, or a split farther that way, is refused until {canary.refused_until}"
        yield Hold(kind="CanaryRefused", text=text)


def _hourly_hold(view: ServiceView, decisions: list[DecisionReport], moves: int) -> Iterator[Hold]:
    cls = view.class_spec
    latest_says_so = bool(decisions) and decisions[0].reason == Reason.MOVES_SPENT
    if cls is None or not (latest_says_so or moves >= cls.max_switches_per_hour):
        return
    yield Hold(
        kind="MovesSpent",
        text=f"its class allows {cls.max_switches_per_hour} moves in an hour, and they are spent",
    )


def _silent_hold(decisions: list[DecisionReport]) -> Iterator[Hold]:
    """The loop holds without a verdict: nothing to judge by is no reason to move."""
    latest = decisions[0] if decisions else None
    if latest is None:
        yield Hold(kind="NoDecision", text="the loop has decided nothing yet")
    elif latest.reason in (Reason.NO_DATA, Reason.IDLE, Reason.TOO_FEW_SAMPLES, Reason.NOT_JUDGED_YET):
        yield Hold(kind=latest.reason, text=f"there is nothing to judge by: {latest.message}")


def _bounds_holds(view: ServiceView, status: ServiceStatus) -> Iterator[Hold]:
    if status.requested is None:
        return
    bounds = view.bounds
    for role, percent, low, high in (
        ("prefill", status.requested.prefill_percent, bounds.prefill_min_percent, bounds.prefill_max_percent),
        ("decode", status.requested.decode_percent, bounds.decode_min_percent, bounds.decode_max_percent),
    ):
        if low == high:
            yield Hold(kind="Bounds", text=f"the bounds allow {role} nothing but {low} %")
        elif percent == low:
            yield Hold(kind="Bounds", text=f"{role} is at its lower bound, {low} %")
        elif percent == high and high < 100:
            yield Hold(kind="Bounds", text=f"{role} is at its upper bound, {high} %")
