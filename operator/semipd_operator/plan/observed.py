"""What was found of one service: the input of the plan. Read off the API's objects here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import Placement, SemiPDService
from semipd_operator.plan.naming import PAUSE_ANNOTATION, SKIP_ANNOTATION
from semipd_operator.plan.times import to_unix_s

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    name: str
    uid: str
    ip: str | None = None
    node: str | None = None
    is_ready: bool = False
    is_leaving: bool = False
    problem: str | None = None  # why it does not start, in the words of the kubelet or the scheduler
    template: str | None = None  # digest of its pod template; None: its revision does not say
    created_s: float | None = None  # unix time


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadView:
    """The Deployment or DaemonSet, as its controller last saw it."""

    is_current: bool  # its controller has seen the last change
    desired: int
    ready: int
    updated: int
    available: int
    is_stuck: bool = False  # no progress within its deadline
    lacks_pods: bool = False  # pods were refused to it, by a quota say
    template: str | None = None  # digest of its pod template; None: written by a release that noted none


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionView:
    """A ReplicaSet of the Deployment."""

    hash: str  # its pods' label HASH_LABEL
    template: str  # digest
    replicas: int  # that it asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasOwner:
    """One who has set spec.replicas to what it is."""

    manager: str
    is_apply: bool  # by server-side apply: it declares the number
    is_scale: bool  # through the scale subresource
    time: str | None = (
        None  # RFC 3339, of its last write; the API server notes none for what came through /scale
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxiesView:
    """`answer`: the service's address leads to them. `pods` counts those too that leave."""

    workload: WorkloadView | None = None
    pods: int = 0
    answer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    service: SemiPDService
    workload: WorkloadView | None = None
    pods: tuple[PodView, ...] = ()
    partitions: Mapping[str, SemiPDPartition] = field(default_factory=dict)  # by name, which is the pod's
    proxies: ProxiesView = field(default_factory=ProxiesView)
    replicas_owners: tuple[ReplicasOwner, ...] = ()
    revisions: tuple[RevisionView, ...] = ()

    @property
    def is_paused(self) -> bool:
        return self.service.metadata.annotations.get(PAUSE_ANNOTATION) == "true"

    @property
    def skips_canary(self) -> bool:
        return self.service.metadata.annotations.get(SKIP_ANNOTATION) == "true"

    @property
    def replicas(self) -> int:
        """That the service asks for; where it leaves that open, that the workload has."""
        asked = self.service.spec.replicas
        return asked if asked is not None else self.workload.desired if self.workload else 0


def view_workload(found: Object) -> WorkloadView:
    """`found`: as `trim_child` keeps it."""
    spec, status = found.get("spec", {}), found.get("status", {})
    is_current = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    if found.get("kind") == "DaemonSet":
        return WorkloadView(
            is_current=is_current,
            desired=status.get("desiredNumberScheduled", 0),
            ready=status.get("numberReady", 0),
            updated=status.get("updatedNumberScheduled", 0),
            available=status.get("numberAvailable", 0),
            template=found.get("template"),
        )
    return WorkloadView(
        is_current=is_current,
        desired=spec.get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        is_stuck=_condition(found, "Progressing").get("reason") == "ProgressDeadlineExceeded",
        lacks_pods=_condition(found, "ReplicaFailure").get("status") == "True",
        template=found.get("template"),
    )


def view_revision(found: Object) -> RevisionView | None:
    """`found`: as `trim_replica_set` keeps it. None: made by a release that noted no digest."""
    if found["template"] is None:
        return None
    return RevisionView(hash=found["hash"], template=found["template"], replicas=found["replicas"])


def owns_replicas(entry: Object) -> bool:
    """`entry` of a service's managedFields."""
    return "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})


def view_replicas_owner(entry: Object) -> ReplicasOwner:
    """`entry`: one that `owns_replicas`."""
    return ReplicasOwner(
        manager=entry.get("manager", ""),
        is_apply=entry.get("operation") == "Apply",
        is_scale=entry.get("subresource") == "scale",
        time=entry.get("time"),
    )


def workload_kind(service: SemiPDService) -> str:
    return "DaemonSet" if service.spec.placement is Placement.EVERY_NODE else "Deployment"


def view_pod(found: Object) -> PodView:
    """Without its template: its revision has that."""
    metadata, status = found["metadata"], found.get("status", {})
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        ip=status.get("podIP"),
        node=found.get("spec", {}).get("nodeName"),
        is_ready=_condition(found, "Ready").get("status") == "True",
        is_leaving="deletionTimestamp" in metadata,
        problem=_problem(found),
        created_s=to_unix_s(created) if (created := metadata.get("creationTimestamp")) else None,
    )


def is_unschedulable(pod: PodView) -> bool:
    return pod.node is None and pod.problem is not None and "nschedulable" in pod.problem


def _problem(pod: Object) -> str | None:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}".rstrip(": ")
    for container in pod.get("status", {}).get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            last = container.get("lastState", {}).get("terminated", {}).get("message", "")
            said = waiting.get("message") or last
            return f"{waiting['reason']}: {last.strip() or said}".rstrip(": ")
    return None


def _condition(found: Object, kind: str) -> Mapping[str, str]:
    conditions = found.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition.get("type") == kind), {})
