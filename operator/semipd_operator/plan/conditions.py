"""The conditions of a service, one function each: recomputed from what was observed, never edited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum

from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType
from semipd_core.api.partition import EnginePartitionStatus, GpuHealth, SemiPDPartition
from semipd_core.api.slo import SloSpec
from semipd_core.cluster.canary import Canary
from semipd_core.cluster.state import ClusterRound
from semipd_core.cluster.template_rollout import TemplateTrial
from semipd_core.errors import InvalidSpec
from semipd_core.policies.decision import MISS_CHANCE_MAX, Reason
from semipd_core.service_settings import slo_targets
from semipd_core.slo.pooled import WindowState
from semipd_operator.plan.isolation import describe_fallen
from semipd_operator.plan.naming import PAUSE_ANNOTATION
from semipd_operator.plan.observed import Observed, is_unschedulable
from semipd_operator.plan.routing import Route
from semipd_operator.plan.template_trial import NO_ROLLOUT, Rollout, TemplateRefusal


class StatusReason(StrEnum):
    """Why a condition is what it is; with the policies' reasons, all that a condition's reason can be."""

    ALL_READY = "AllReady"
    NOT_DEPLOYED = "NotDeployed"
    NOT_READY = "NotReady"
    NO_REPLICAS = "NoReplicas"
    POD_BLOCKED = "PodBlocked"
    ROLLING_OUT = "RollingOut"
    CANNOT_SURGE = "CannotSurge"
    DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    UP_TO_DATE = "UpToDate"
    APPLIED = "Applied"
    SWITCHING = "Switching"
    NOT_REPORTED = "NotReported"
    NOT_GRANTED = "NotGranted"
    FOUND = "MetricsFound"
    MISSING = "MetricsMissing"
    CLASS_REFUSES = "ClassRefuses"
    CHILD_REFUSED = "ChildRefused"
    FIELD_OWNED = "FieldOwned"
    NAME_TAKEN = "NameTaken"
    PIN_INVALID = "PinInvalid"
    ROLLED_BACK = "RolledBack"
    GPU_UNHEALTHY = "GpuUnhealthy"
    POD_FAULT = "PodFault"
    FELL_BACK = "FellBack"
    HEALTHY = "Healthy"
    PAUSED = "Paused"
    REPLICAS_OWNED = "ReplicasOwned"
    SCALE_REFUSED = "FailedUpdateScale"
    UNKNOWN_YET = "NotObservedYet"


TRIED_AGAIN = "Problems"  # reason of a partition's Degraded where the agent has no word for what is wrong
_SETTLED = (StatusReason.UP_TO_DATE, StatusReason.PAUSED, Reason.CANARY)  # nothing that Ready waits for


def engines_ready(observed: Observed) -> Condition:
    workload = observed.workload
    if workload is None:
        return _false(ConditionType.ENGINES_READY, StatusReason.NOT_DEPLOYED, "no workload yet")
    if workload.desired == 0:
        return _false(ConditionType.ENGINES_READY, StatusReason.NO_REPLICAS, "0 replicas are asked for")
    said = f"{workload.ready} of {workload.desired} pods are ready"
    if workload.is_current and workload.ready >= workload.desired:
        return _true(ConditionType.ENGINES_READY, StatusReason.ALL_READY, said)
    blocked = [f"{pod.name}: {pod.problem}" for pod in observed.pods if pod.problem and not pod.is_leaving]
    if blocked:
        return _false(ConditionType.ENGINES_READY, StatusReason.POD_BLOCKED, f"{said}; {min(blocked)}")
    return _false(ConditionType.ENGINES_READY, StatusReason.NOT_READY, said)


def progressing(observed: Observed, canary: Canary | None = None, rollout: Rollout = NO_ROLLOUT) -> Condition:
    """True while a change rolls out or something is on trial; "cannot surge" is a pending pod beside a full set of old ones."""
    workload = observed.workload
    if observed.is_paused:
        return _unknown(
            ConditionType.PROGRESSING,
            StatusReason.PAUSED,
            f"nothing is written while {PAUSE_ANNOTATION} is true",
        )
    if workload is None:
        return _true(ConditionType.PROGRESSING, StatusReason.NOT_DEPLOYED, "the workload is being made")
    if rollout.trial is not None:
        return _template_on_trial(rollout.trial, observed)
    said = f"{workload.updated} of {workload.desired} pods are of the new revision"
    if workload.is_stuck:
        return _false(ConditionType.PROGRESSING, StatusReason.DEADLINE_EXCEEDED, said)
    if workload.is_current and workload.updated >= workload.desired:
        if canary is not None:
            tried = f"{canary.wish.target} is on trial in {len(canary.pods)} of {workload.desired} pods"
            return _true(ConditionType.PROGRESSING, Reason.CANARY, tried)
        return _false(ConditionType.PROGRESSING, StatusReason.UP_TO_DATE, said)
    waiting = list(filter(is_unschedulable, observed.pods))
    if waiting and workload.ready >= workload.desired:
        message = f"{said}; no room for one more: {waiting[0].problem}"
        return _true(ConditionType.PROGRESSING, StatusReason.CANNOT_SURGE, message)
    return _true(ConditionType.PROGRESSING, StatusReason.ROLLING_OUT, said)


def _template_on_trial(trial: TemplateTrial, observed: Observed) -> Condition:
    ours = [pod for pod in observed.pods if pod.template == trial.template.digest and not pod.is_leaving]
    said = f"{trial.template} is on trial in {len(ours)} pods, of {observed.replicas} that are asked for"
    waiting = list(filter(is_unschedulable, ours))
    if waiting:
        message = f"{said}; no room for one more: {waiting[0].problem}"
        return _true(ConditionType.PROGRESSING, StatusReason.CANNOT_SURGE, message)
    return _true(ConditionType.PROGRESSING, Reason.CANARY, said)


def partition_applied(observed: Observed) -> Condition:
    """Of the pods that serve: what each was asked for, and what it says it was granted."""
    kind = ConditionType.PARTITION_APPLIED
    names = [pod.name for pod in observed.pods if not pod.is_leaving]
    silent, switching, refused = [], [], []
    for name in names:
        partition = observed.partitions.get(name)
        status = partition.status if partition is not None else None
        if partition is None or status is None or not status.engines:
            silent.append(name)
        elif status.observed_decision_id != partition.spec.decision_id or _any_switches(status.engines):
            switching.append(name)
        elif any(engine.granted != engine.requested for engine in status.engines):
            refused.append(name)
    if not names:
        return _unknown(kind, StatusReason.UNKNOWN_YET, "no pod")
    for reason, found, words in (
        (StatusReason.NOT_GRANTED, refused, "are not granted what they asked for"),
        (StatusReason.SWITCHING, switching, "are switching"),
        (StatusReason.NOT_REPORTED, silent, "have not reported yet"),
    ):
        if found:
            return _false(kind, reason, f"{len(found)} of {len(names)} pods {words}: {_some(found)}")
    return _true(kind, StatusReason.APPLIED, f"granted as requested in {len(names)} pods")


def isolation_preferred(observed: Observed) -> Condition | None:
    """None while every pod has what isolation `Auto` prefers, or nothing was to choose."""
    fallen = describe_fallen(observed)
    if not fallen:
        return None
    said = f"{len(fallen)} of {sum(not pod.is_leaving for pod in observed.pods)} pods have another: {_some(fallen)}"
    return _false(ConditionType.ISOLATION_PREFERRED, StatusReason.FELL_BACK, said)


def metrics_available(round_: ClusterRound | None, engines: int) -> Condition:
    kind = ConditionType.METRICS_AVAILABLE
    if round_ is None:
        return _unknown(kind, StatusReason.UNKNOWN_YET, "the cluster loop has not looked yet")
    said = f"{round_.window.engines} of {engines} engines report"
    if round_.window_state is WindowState.NO_DATA:
        return _false(kind, StatusReason.MISSING, said)
    return _true(kind, StatusReason.FOUND, "engines report")


def slo_met(round_: ClusterRound | None, slo: SloSpec, old: Condition | None = None) -> Condition:
    """Without figures, which would change at every look: they are in `status.slo`.

    False once there are more misses than chance explains, True once there are no more than allowed; in between as it was (`old`).
    """
    kind = ConditionType.SLO_MET
    if round_ is None:
        return _unknown(kind, StatusReason.UNKNOWN_YET, "the cluster loop has not looked yet")
    state, asked = round_.window_state, 10 * min(slo.ttft.percentile, slo.tpot.percentile)
    if state in (WindowState.NO_DATA, WindowState.IDLE, WindowState.PENDING):
        return _unknown(kind, state.value, "no request was judged in the last window")
    is_chance = round_.window.chance_of_misses(slo_targets(slo)) > MISS_CHANCE_MAX + 1e-9
    was_met = old is None or old.status is not ConditionStatus.FALSE
    if state is WindowState.MET or (is_chance and was_met):
        return _true(kind, "Met", f"at least {asked} ‰ of the requests keep both targets")
    return _false(kind, "Missed", f"fewer than {asked} ‰ of the requests keep both targets")


def degraded(
    observed: Observed,
    defect: InvalidSpec | None,
    pin_defect: InvalidSpec | None = None,
    refusal: TemplateRefusal | None = None,
) -> Condition:
    """Somebody must look: the class refuses the spec, a pin is none, a pod or its GPU is ill, or a template was rolled back."""
    kind = ConditionType.DEGRADED
    if defect is not None:
        return _true(kind, StatusReason.CLASS_REFUSES, f"{defect}; the service keeps running as it was")
    if pin_defect is not None:
        return _true(kind, StatusReason.PIN_INVALID, f"{pin_defect}; what was asked for before stays")
    ill = [
        f"{name}: GPU {gpu.uuid} {gpu.message}".rstrip()
        for name, partition in sorted(observed.partitions.items())
        if partition.status is not None
        for engine in partition.status.engines
        for gpu in engine.gpus
        if gpu.health is GpuHealth.UNHEALTHY
    ]
    if ill:
        return _true(kind, StatusReason.GPU_UNHEALTHY, _some(ill))
    if faults := _pod_faults(observed):
        return _true(kind, StatusReason.POD_FAULT, _some(faults))
    if refusal is not None:
        return _true(kind, StatusReason.ROLLED_BACK, refusal.message)
    return _false(kind, StatusReason.HEALTHY, "")


def _pod_faults(observed: Observed) -> list[str]:
    """What agents say is wrong with their pods; what they try again by themselves ("Problems") is theirs alone."""
    return [
        f"{name}: {condition.reason}: {condition.message}"
        for name, partition in observed.partitions.items()
        for condition in find_faults(partition)
    ]


def find_faults(partition: SemiPDPartition | None) -> Iterator[Condition]:
    """Those that an agent has a word for."""
    status = partition.status if partition is not None else None
    for condition in status.conditions if status is not None else ():
        is_true = condition.status is ConditionStatus.TRUE
        if condition.type == ConditionType.DEGRADED and is_true and condition.reason != TRIED_AGAIN:
            yield condition


def routed(route: Route) -> Condition:
    """Whether requests go the way that `routing` asks for. Absent with `routing: Service`, where there is no other way."""
    status = _true if route.is_as_asked else _false
    return status(ConditionType.ROUTED, route.reason, route.message)


def ready(conditions: Iterable[Condition]) -> Condition:
    """The summary: the first blocker in order of weight. The SLO blocks nothing: a slow answer is an answer."""
    by_type = {condition.type: condition for condition in conditions}
    for kind, blocks in (
        (ConditionType.DEGRADED, lambda c: c.reason == StatusReason.CLASS_REFUSES),
        (ConditionType.ENGINES_READY, lambda c: c.status is not ConditionStatus.TRUE),
        (ConditionType.PROGRESSING, lambda c: c.reason not in _SETTLED),
        (
            ConditionType.PARTITION_APPLIED,
            lambda c: c.reason in (StatusReason.NOT_REPORTED, StatusReason.NOT_GRANTED),
        ),
        (ConditionType.ROUTED, lambda c: c.status is not ConditionStatus.TRUE),
    ):
        condition = by_type.get(kind)
        if condition is not None and blocks(condition):
            return _false(ConditionType.READY, condition.reason, f"{kind}: {condition.message}")
    return _true(ConditionType.READY, StatusReason.ALL_READY, by_type[ConditionType.ENGINES_READY].message)


def _any_switches(engines: Iterable[EnginePartitionStatus]) -> bool:
    return any(
        condition.type == ConditionType.SWITCHING and condition.status is ConditionStatus.TRUE
        for engine in engines
        for condition in engine.conditions
    )


def _some(names: list[str], shown: int = 3) -> str:
    """Few enough for a message, in an order that does not change from look to look."""
    counted = sorted(Counter(names))
    rest = len(counted) - shown
    return ", ".join(counted[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _true(kind: ConditionType, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=ConditionStatus.TRUE, reason=reason, message=message)


def _false(kind: ConditionType, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=ConditionStatus.FALSE, reason=reason, message=message)


def _unknown(kind: ConditionType, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=ConditionStatus.UNKNOWN, reason=reason, message=message)
