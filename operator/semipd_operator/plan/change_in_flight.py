"""The pods of a service as its autoscaling sees them, and whether a change is under way that its latencies would be of."""

from __future__ import annotations

from collections.abc import Sequence

from semipd_core.api.conditions import ConditionStatus, ConditionType
from semipd_core.api.partition import SemiPDPartition
from semipd_core.cluster.autoscale import Fleet
from semipd_operator.plan.conditions import find_faults
from semipd_operator.plan.observed import Observed, PodView, is_unschedulable

START_MAX_S = 1800.0  # a first start may fetch tens of GB; what takes longer will not come by itself
SWITCHING_SHARE = 0.1  # of the ready pods: agents answer bursts by themselves, one by one


def view_fleet(observed: Observed, replicas: int, now_s: float) -> Fleet:
    """`now_s`: unix time."""
    pods = [pod for pod in observed.pods if not pod.is_leaving]
    refused = _refused_pods(observed, replicas, pods)
    return Fleet(
        replicas=replicas,
        ready=sum(pod.is_ready for pod in pods),
        unschedulable=sum(map(is_unschedulable, pods)) + refused,
        engines_per_pod=observed.service.spec.resources.engines_per_pod,
        in_flight=_change_in_flight(observed, replicas, pods, refused, now_s),
    )


def _refused_pods(observed: Observed, replicas: int, pods: Sequence[PodView]) -> int:
    """That a quota, say, does not let come to be: as little to be waited for as those that no node has room for."""
    workload = observed.workload
    return max(0, replicas - len(pods)) if workload is not None and workload.lacks_pods else 0


def _change_in_flight(
    observed: Observed, replicas: int, pods: Sequence[PodView], refused: int, now_s: float
) -> str | None:
    workload = observed.workload
    if workload is None or not workload.is_current or workload.desired != replicas:
        return "the last change has not reached the workload yet"
    if workload.updated + refused < workload.desired:
        return f"a rollout: {workload.updated} of {workload.desired} pods are of the new revision"
    starting = [pod.name for pod in pods if _starts(pod, observed.partitions.get(pod.name), now_s)]
    if starting or len(pods) + refused < replicas:
        return f"{max(len(starting), replicas - len(pods))} pods start"
    return _switch_in_flight(observed, [pod.name for pod in pods if pod.is_ready])


def _starts(pod: PodView, partition: SemiPDPartition | None, now_s: float) -> bool:
    """A pod whose GPU is lost runs and is not ready for good: nothing is to be waited for."""
    if pod.is_ready or pod.problem is not None:
        return False
    is_late = pod.created_s is not None and now_s - pod.created_s > START_MAX_S
    return not is_late and next(find_faults(partition), None) is None


def _switch_in_flight(observed: Observed, ready: Sequence[str]) -> str | None:
    """A split that some pods are asked for and others not is a canary; agents that have not taken it up are on their way."""
    partitions = [observed.partitions[name] for name in ready if name in observed.partitions]
    asked = {partition.spec.decision_id for partition in partitions}
    if len(asked) > 1:
        return f"a switch: pods are asked for {len(asked)} different splits"
    moving = sum(map(_is_moving, partitions))
    return f"a switch in {moving} of {len(ready)} pods" if moving > SWITCHING_SHARE * len(ready) else None


def _is_moving(partition: SemiPDPartition) -> bool:
    """An agent that has not reported is no sign of a switch."""
    status = partition.status
    if status is None or not status.engines:
        return False
    return status.observed_decision_id != partition.spec.decision_id or any(
        condition.type == ConditionType.SWITCHING and condition.status is ConditionStatus.TRUE
        for engine in status.engines
        for condition in engine.conditions
    )
