"""`explain`: why the split of a service is what it is, as numbers and as sentences."""

from __future__ import annotations

from collections.abc import Iterator

from semipd_core.api.conditions import ConditionStatus, ConditionType, find_condition
from semipd_core.api.service import PartitionMode, ServiceStatus
from semipd_core.policies.decision import Reason
from semipd_core.telemetry import Wire
from semipd_kubectl.observe.objects import PAUSE_ANNOTATION, PIN_ANNOTATION, ServiceView
from semipd_kubectl.reports.live import ServiceLive
from semipd_kubectl.reports.status import PodReport, SloReport, build_pod, build_slo
from semipd_kubectl.reports.values import (
    DecisionReport,
    Range,
    Split,
    decisions_of,
    range_of,
    split_of,
    unix_s,
)

HOUR_S = 3600.0


class Hold(Wire, frozen=True, kw_only=True):
    """What keeps the loop from moving the split: `kind` is one word of it."""

    kind: str
    text: str


class ExplainReport(Wire, frozen=True, kw_only=True):
    """`live` None: not asked for. `moves_last_hour` counts those that the status still shows: at least so many."""

    namespace: str
    name: str
    mode: str
    policy: str
    class_name: str | None
    requested: Split | None
    granted: Split | None
    band: Range | None
    bounds: Range
    bounds_in_force: Range
    cooldown_seconds: int
    cooldown_left_seconds: int
    moves_last_hour: int
    max_moves_per_hour: int | None
    slo: SloReport
    live: ServiceLive | None
    holds: list[Hold]
    decisions: list[DecisionReport]
    pods: list[PodReport]


def build_explanation(view: ServiceView, live: ServiceLive | None, now_s: float) -> ExplainReport:
    """`now_s`: unix time."""
    partition = view.service.spec.partition
    status = view.service.status or ServiceStatus()
    decisions = decisions_of(status.decisions)
    pods = [build_pod(pod, view.partitions.get(pod.name)) for pod in view.pods]
    cls = view.class_spec
    return ExplainReport(
        namespace=view.namespace,
        name=view.name,
        mode=partition.mode.value,
        policy=partition.policy.value,
        class_name=view.cls.metadata.name if view.cls else None,
        requested=split_of(status.requested),
        granted=split_of(status.granted),
        band=_band(pods),
        bounds=range_of(partition.bounds),
        bounds_in_force=range_of(view.bounds),
        cooldown_seconds=partition.cooldown_seconds,
        cooldown_left_seconds=_cooldown_left_s(decisions, partition.cooldown_seconds, now_s),
        moves_last_hour=len(_moves_s(decisions, now_s)),
        max_moves_per_hour=cls.max_switches_per_hour if cls is not None else None,
        slo=build_slo(view.service),
        live=live,
        holds=list(_holds(view, decisions, now_s)),
        decisions=decisions,
        pods=pods,
    )


def _band(pods: list[PodReport]) -> Range | None:
    """That of most pods."""
    bands = [pod.band for pod in pods if pod.band is not None]
    return max(bands, key=bands.count, default=None)


def _moves_s(decisions: list[DecisionReport], now_s: float) -> list[float]:
    times = [unix_s(decision.time) for decision in decisions if decision.moved]
    return [time for time in times if time is not None and now_s - time < HOUR_S]


def _cooldown_left_s(decisions: list[DecisionReport], cooldown_s: int, now_s: float) -> int:
    moves = _moves_s(decisions, now_s)
    return max(0, round(max(moves) + cooldown_s - now_s)) if moves else 0


def _holds(view: ServiceView, decisions: list[DecisionReport], now_s: float) -> Iterator[Hold]:
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
    left_s = _cooldown_left_s(decisions, spec.cooldown_seconds, now_s)
    if left_s:
        yield Hold(
            kind="Cooldown", text=f"{left_s} s are left of the {spec.cooldown_seconds} s between two moves"
        )
    yield from _hourly_hold(view, decisions, now_s)
    yield from _silent_hold(decisions)
    yield from _bounds_holds(view, status)


def _hourly_hold(view: ServiceView, decisions: list[DecisionReport], now_s: float) -> Iterator[Hold]:
    cls, moves = view.class_spec, len(_moves_s(decisions, now_s))
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
