"""`status`: service, pods, engines; shares asked for and granted; SLO; what blocks; the last decision."""

from __future__ import annotations

from collections.abc import Iterable

from semipd_core.agent_config import PROBE_PASSED
from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType, find_condition
from semipd_core.api.partition import EnginePartitionStatus, SemiPDPartition
from semipd_core.api.service import SemiPDService, ServiceStatus
from semipd_core.telemetry import Wire
from semipd_kubectl.observe.objects import Fleet, PodView, ServiceView
from semipd_kubectl.reports.conditions import ConditionReport, find_blocking, report_of
from semipd_kubectl.reports.trial import CanaryReport, RolloutReport, build_canary, build_rollout
from semipd_kubectl.reports.values import DecisionReport, Range, Split, decisions_of, range_of, split_of

LEAVING = "Leaving"


class GpuReport(Wire, frozen=True, kw_only=True):
    uuid: str
    health: str
    message: str


class EngineReport(Wire, frozen=True, kw_only=True):
    """`granted` None: not read back yet."""

    name: str
    requested: Split
    granted: Split | None
    switching: str | None  # the phase of the switch under way
    ready: bool | None  # None: not said
    problem: str
    gpus: list[GpuReport]


class PodReport(Wire, frozen=True, kw_only=True):
    """`asked` None: the operator has not asked yet. `canary`: whether it tries a split.

    `taken`: whether the agent follows the latest wish.
    """

    name: str
    node: str | None
    state: str  # Ready | NotReady | LEAVING
    problem: str | None
    restarts: int
    canary: bool
    asked: Split | None
    band: Range | None
    taken: bool
    isolation: str | None  # that isolation Auto has come to
    isolation_reason: str | None
    engines: list[EngineReport]

    @property
    def fallen_back(self) -> str | None:
        """To what, and why."""
        has_it = self.isolation is None or self.isolation_reason == PROBE_PASSED
        return None if has_it else f"isolation {self.isolation} ({self.isolation_reason})"


class LatencyReport(Wire, frozen=True, kw_only=True):
    percentile: int
    target_milliseconds: int
    attained_milliseconds: int | None


class SloReport(Wire, frozen=True, kw_only=True):
    """As the operator last rounded it into the status; `top` has the live figures."""

    met: str  # True | False | Unknown
    attainment_permille: int | None
    needed_permille: int
    ttft: LatencyReport
    tpot: LatencyReport


class ServiceReport(Wire, frozen=True, kw_only=True):
    namespace: str
    name: str
    model: str
    mode: str
    policy: str
    isolation: str
    class_name: str | None
    paused: bool
    pinned: str | None
    ready: str  # True | False | Unknown
    replicas: int | None
    ready_replicas: int | None
    requested: Split | None
    granted: Split | None
    slo: SloReport
    conditions: list[ConditionReport]
    blocking: list[ConditionReport]
    last_decision: DecisionReport | None
    canary: CanaryReport | None
    rollout: RolloutReport | None
    pods: list[PodReport]


class StatusReport(Wire, frozen=True, kw_only=True):
    services: list[ServiceReport]
    unreadable: list[str]


def build_status(fleet: Fleet) -> StatusReport:
    return StatusReport(
        services=[build_service(view) for view in fleet.services], unreadable=list(fleet.unreadable)
    )


def build_service(view: ServiceView) -> ServiceReport:
    spec, status = view.service.spec, view.service.status or ServiceStatus()
    decisions = decisions_of(status.decisions)
    return ServiceReport(
        namespace=view.namespace,
        name=view.name,
        model=spec.model.uri,
        mode=spec.partition.mode.value,
        policy=spec.partition.policy.value,
        isolation=spec.partition.isolation.value,
        class_name=_class_name(view),
        paused=view.is_paused,
        pinned=view.pin,
        ready=_status_of(status.conditions, ConditionType.READY),
        replicas=status.replicas,
        ready_replicas=status.ready_replicas,
        requested=split_of(status.requested),
        granted=split_of(status.granted),
        slo=build_slo(view.service),
        conditions=[report_of(condition) for condition in status.conditions],
        blocking=[report_of(condition) for condition in find_blocking(status.conditions)],
        last_decision=decisions[0] if decisions else None,
        canary=build_canary(view),
        rollout=build_rollout(view),
        pods=build_pods(view),
    )


def build_slo(service: SemiPDService) -> SloReport:
    slo, status = service.spec.slo, service.status or ServiceStatus()
    found = status.slo
    return SloReport(
        met=_status_of(status.conditions, ConditionType.SLO_MET),
        attainment_permille=found.attainment_permille if found else None,
        needed_permille=10 * min(slo.ttft.percentile, slo.tpot.percentile),
        ttft=LatencyReport(
            percentile=slo.ttft.percentile,
            target_milliseconds=slo.ttft.target_milliseconds,
            attained_milliseconds=found.ttft_milliseconds if found else None,
        ),
        tpot=LatencyReport(
            percentile=slo.tpot.percentile,
            target_milliseconds=slo.tpot.target_milliseconds,
            attained_milliseconds=found.tpot_milliseconds if found else None,
        ),
    )


def build_pods(view: ServiceView) -> list[PodReport]:
    canaries = view.canaries
    return [_pod(pod, view.partitions.get(pod.name), is_canary=pod.name in canaries) for pod in view.pods]


def _pod(pod: PodView, partition: SemiPDPartition | None, *, is_canary: bool) -> PodReport:
    spec = partition.spec if partition is not None else None
    status = partition.status if partition is not None else None
    isolation = status.isolation if status is not None else None
    return PodReport(
        name=pod.name,
        node=pod.node,
        state=LEAVING if pod.is_leaving else "Ready" if pod.is_ready else "NotReady",
        problem=pod.problem,
        restarts=pod.restarts,
        canary=is_canary,
        asked=split_of(spec.target) if spec else None,
        band=range_of(spec.band) if spec and spec.band else None,
        taken=bool(spec and status and status.observed_decision_id == spec.decision_id),
        isolation=isolation.chosen.value if isolation else None,
        isolation_reason=isolation.reason if isolation else None,
        engines=[_engine(engine) for engine in (status.engines if status else ())],
    )


def _engine(engine: EnginePartitionStatus) -> EngineReport:
    ready = find_condition(engine.conditions, ConditionType.READY)
    switching = find_condition(engine.conditions, ConditionType.SWITCHING)
    requested = split_of(engine.requested)
    assert requested is not None
    return EngineReport(
        name=engine.name,
        requested=requested,
        granted=split_of(engine.granted),
        switching=switching.reason if switching and switching.status is ConditionStatus.TRUE else None,
        ready=None if ready is None else ready.status is ConditionStatus.TRUE,
        problem=ready.message if ready else "",
        gpus=[GpuReport(uuid=gpu.uuid, health=gpu.health.value, message=gpu.message) for gpu in engine.gpus],
    )


def _class_name(view: ServiceView) -> str | None:
    if view.cls is not None:
        return view.cls.metadata.name
    ref = view.service.spec.class_ref
    return ref.name if ref is not None else None


def _status_of(conditions: Iterable[Condition], kind: ConditionType) -> str:
    condition = find_condition(tuple(conditions), kind)
    return (condition.status if condition else ConditionStatus.UNKNOWN).value
