"""Should `spec.replicas` change? What was observed, put to `semipd_core.cluster.autoscale`, and what it says in status.

The number is an ordinary field that people, an HPA or KEDA may set too. Who set it is read off managedFields, when it changed off
the records in status: both outlive the operator. A number that another autoscaler or a manifest under server-side apply owns is
left alone. A record is written before the change that it is of, so that an operator that dies between them moves nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType, set_condition
from semipd_core.api.service import AutoscaleSpec, ScalingRecord, ServiceStatus
from semipd_core.cluster import pressure
from semipd_core.cluster.autoscale import (
    Bounds,
    Overload,
    ScaleDecision,
    ScaleInputs,
    ScaleReason,
    decide,
)
from semipd_core.errors import InvalidSpec
from semipd_operator.plan.change_in_flight import view_fleet
from semipd_operator.plan.conditions import StatusReason
from semipd_operator.plan.naming import SCALE_MANAGER, SEED_MANAGER
from semipd_operator.plan.observed import Observed, ReplicasOwner
from semipd_operator.plan.status import Loop

RECORDS_KEPT = 5
FOUND = "Found"  # a record's reason: of a change that is not ours

# Without figures, which would change at every look: those are in the record and the event of a change.
_WORDS = {
    ScaleReason.BELOW_MINIMUM: "raised to autoscale.minReplicas",
    ScaleReason.ABOVE_MAXIMUM: "lowered to autoscale.maxReplicas",
    ScaleReason.PRESSURE_HIGH: "latencies are near their targets",
    ScaleReason.PRESSURE_LOW: "latencies are far from their targets, and fewer replicas can carry the load",
    ScaleReason.WITHIN_BAND: "the pressure asks for no other number",
    ScaleReason.SPLIT_FIRST: "a better split is expected to be enough",
    ScaleReason.AT_MAXIMUM: "more would help; autoscale.maxReplicas or the class's GPU budget allows no more",
    ScaleReason.AT_MINIMUM: "fewer would do; autoscale.minReplicas allows no fewer",
    ScaleReason.NO_ROOM: "more would help; pods wait for a node already",
    ScaleReason.NOT_LOAD: "latencies are near their targets with one request per engine: replicas do not help",
    ScaleReason.PERIOD: "the last change is too recent for another one",
    ScaleReason.CONSOLIDATION: "one replica fewer would come too near to the targets",
    ScaleReason.OVERLOADED_BEFORE: "one replica fewer was too few for this load before",
    ScaleReason.PARTIAL_DATA: "too few engines report",
    ScaleReason.NO_DATA: "no pressure of this fleet at this split is known yet",
    ScaleReason.IN_FLIGHT: "a rollout, a switch or a start is under way",
    ScaleReason.DISABLED: "0 replicas were asked for: set 1 or more to scale again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What is said of scaling, and what is to be done: `replicas` is the number to set, None a hold."""

    condition: Condition
    records: tuple[ScalingRecord, ...] = ()  # newest first; the first is of `replicas`
    replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A number that the API server did not take a while ago."""

    replicas: int
    message: str


def plan_scaling(
    observed: Observed,
    loop: Loop | None,
    *,
    defect: InvalidSpec | None,
    paused: bool,
    replica_limit: int | None,
    now: str,
    refusal: Refusal | None = None,
) -> Scaling | None:
    """None: the service has no `autoscale` block. `replica_limit`: by the class's GPU budget."""
    spec, replicas = observed.service.spec.autoscale, observed.service.spec.replicas
    if spec is None or replicas is None:
        return None
    records = observed.service.status.scalings if observed.service.status else ()
    if paused:
        return _inactive(StatusReason.PAUSED, "paused by annotation", records)
    if defect is not None:
        return _inactive(StatusReason.CLASS_REFUSES, str(defect), records)
    owner = find_other_owner(observed.replicas_owners)
    if owner is not None:
        return _inactive(StatusReason.REPLICAS_OWNED, _describe_owner(owner), records)
    records = _with_found(records, replicas, now)
    reading = pressure.read(loop.state.pressure, loop.average_s) if loop else None
    fleet = view_fleet(observed, replicas, _seconds(now))
    decision = decide(
        ScaleInputs(
            now_s=_seconds(now),
            bounds=_bounds(spec, replica_limit),
            fleet=fleet,
            reading=reading,
            changed_s=_changed_s(observed.replicas_owners, records),
            overloads=_overloads(records),
        )
    )
    if decision.replicas == replicas:
        return Scaling(condition=_condition(decision), records=records)
    tokens_per_s = reading.tokens_per_s if reading and fleet.ready else None
    record = ScalingRecord(
        time=now,
        from_replicas=replicas,
        to_replicas=decision.replicas,
        reason=decision.reason,
        message=decision.message,
        tokens_per_second_per_pod=None if tokens_per_s is None else round(tokens_per_s / fleet.ready),
    )
    scaling = Scaling(
        condition=_condition(decision), records=(record, *records)[:RECORDS_KEPT], replicas=decision.replicas
    )
    if refusal is not None and refusal.replicas == decision.replicas:
        return refused(scaling, refusal)
    return scaling


def with_scaling(status: ServiceStatus, scaling: Scaling | None, now: str) -> ServiceStatus:
    """`status` with what is said of scaling; without the block, with nothing of it."""
    if scaling is None:
        others = tuple(each for each in status.conditions if each.type != ConditionType.SCALING_ACTIVE)
        return replace(status, conditions=others, scalings=())
    condition = replace(scaling.condition, observed_generation=status.observed_generation)
    return replace(
        status, conditions=set_condition(status.conditions, condition, now), scalings=scaling.records
    )


def refused(scaling: Scaling, refusal: Refusal) -> Scaling:
    """The number was not changed: its record goes."""
    said = f"{refusal.replicas} replicas: {refusal.message}"
    return _inactive(StatusReason.SCALE_REFUSED, said, scaling.records[1:])


def find_other_owner(owners: Iterable[ReplicasOwner]) -> ReplicasOwner | None:
    """Who sets the number and would set it again: a manifest under server-side apply, or another autoscaler on `/scale`.

    A person's edit, `kubectl scale` among them, is where we go on from.
    """
    return next(
        (
            owner
            for owner in owners
            if owner.manager not in (SCALE_MANAGER, SEED_MANAGER)
            and (owner.is_apply or (owner.is_scale and not owner.manager.startswith("kubectl")))
        ),
        None,
    )


def _bounds(spec: AutoscaleSpec, limit: int | None) -> Bounds:
    """The class's budget wins over both."""
    maximum = spec.max_replicas if limit is None else max(1, min(spec.max_replicas, limit))
    return Bounds(minimum=min(spec.min_replicas, maximum), maximum=maximum)


def _with_found(records: tuple[ScalingRecord, ...], replicas: int, now: str) -> tuple[ScalingRecord, ...]:
    """A number that is not the one of the last record is a change too."""
    if not records or records[0].to_replicas == replicas:
        return records
    asked = records[0].to_replicas
    found = ScalingRecord(
        time=now,
        from_replicas=asked,
        to_replicas=replicas,
        reason=FOUND,
        message=f"{replicas} were found where {asked} were asked for: somebody has set the number, or the change was cut short",
    )
    return (found, *records)[:RECORDS_KEPT]


def _changed_s(owners: Iterable[ReplicasOwner], records: Sequence[ScalingRecord]) -> float | None:
    times = [each.time for each in owners if each.time is not None] + [each.time for each in records[:1]]
    return max(map(_seconds, times), default=None)


def _overloads(records: Iterable[ScalingRecord]) -> list[Overload]:
    return [
        Overload(at_s=_seconds(record.time), tokens_per_s_per_pod=record.tokens_per_second_per_pod)
        for record in records
        if record.reason == ScaleReason.PRESSURE_HIGH and record.tokens_per_second_per_pod is not None
    ]


def _condition(decision: ScaleDecision) -> Condition:
    status = {ScaleReason.DISABLED: ConditionStatus.FALSE, ScaleReason.NO_DATA: ConditionStatus.UNKNOWN}
    return Condition(
        type=ConditionType.SCALING_ACTIVE,
        status=status.get(decision.reason, ConditionStatus.TRUE),
        reason=decision.reason,
        message=_WORDS[decision.reason],
    )


def _inactive(reason: StatusReason, message: str, records: tuple[ScalingRecord, ...]) -> Scaling:
    condition = Condition(
        type=ConditionType.SCALING_ACTIVE, status=ConditionStatus.FALSE, reason=reason, message=message
    )
    return Scaling(condition=condition, records=records)


def _describe_owner(owner: ReplicasOwner) -> str:
    how = "by server-side apply" if owner.is_apply else "through /scale"
    return f"{owner.manager} sets spec.replicas {how}: remove it or spec.autoscale; kubectl scale then hands the number back"


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).astimezone(UTC).timestamp()
