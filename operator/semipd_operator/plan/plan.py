"""Given what is there, what should be there? The whole decision about one service in one pure function."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from semipd_core.api.service import Placement, ServiceStatus
from semipd_core.api.service_class import SemiPDClass
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Wish
from semipd_operator.plan.children import build_children
from semipd_operator.plan.class_choice import choose_class
from semipd_operator.plan.effective import Effective, apply_class
from semipd_operator.plan.guard_rails import GpuUse, class_defect, gpus_per_pod
from semipd_operator.plan.naming import PAUSE_ANNOTATION
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.partitions import build_partitions
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.status import Loop, build_status

SEEDED_REPLICAS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What the operator knows of itself and of the cluster."""

    namespace: str
    engine_image: str
    optional_kinds: Collection[str] = ()  # of semipd_operator.plan.optional_children


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The service under its class: `effective` where it keeps to it, else the defect."""

    effective: Effective | None
    defect: InvalidSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    children: tuple[Manifest, ...]  # empty while the class refuses the spec: what runs is left as it is
    partitions: tuple[Manifest, ...]
    status: ServiceStatus
    seeds_replicas: bool = False  # `/scale` cannot be read without spec.replicas


def admit(
    observed: Observed, classes: Iterable[SemiPDClass], installation: Installation, others_gpus: int
) -> Admission:
    """`others_gpus`: of the other services of the same class in this namespace, as deployed."""
    service = observed.service
    choice = choose_class(service, classes)
    if choice.defect is not None:
        return Admission(effective=None, defect=choice.defect)
    per_pod = gpus_per_pod(service.spec, choice.spec)
    deployed = observed.workload.desired if observed.workload else 0
    wanted = _pods_wanted(observed)
    use = GpuUse(wanted=per_pod * wanted, deployed=per_pod * deployed, others=others_gpus)
    defect = class_defect(service, choice.spec, use)
    if defect is not None:
        return Admission(effective=None, defect=defect)
    effective = apply_class(service, choice.spec, operator_image=installation.engine_image)
    return Admission(effective=effective)


def build_plan(
    observed: Observed,
    admission: Admission,
    installation: Installation,
    *,
    wish: Wish | None,
    loop: Loop | None,
    now: str,
) -> Plan:
    """`wish`: for every pod; None while the class refuses the service. `now`: RFC 3339."""
    service, effective = observed.service, admission.effective
    children: tuple[Manifest, ...] = ()
    if effective is not None and not is_paused(observed):
        children = tuple(
            build_children(
                effective,
                operator_namespace=installation.namespace,
                kinds=installation.optional_kinds,
            )
        )
    partitions = build_partitions(observed, {}, wish) if wish is not None and not is_paused(observed) else []
    return Plan(
        children=children,
        partitions=tuple(partitions),
        status=build_status(observed, loop, admission.defect, now),
        seeds_replicas=service.spec.replicas is None and service.spec.placement is Placement.REPLICAS,
    )


def is_paused(observed: Observed) -> bool:
    return observed.service.metadata.annotations.get(PAUSE_ANNOTATION) == "true"


def asks_for_more(observed: Observed) -> bool:
    """Pods than are deployed: else its class's budget does not matter."""
    return _pods_wanted(observed) > (observed.workload.desired if observed.workload else 0)


def _pods_wanted(observed: Observed) -> int:
    spec = observed.service.spec
    if spec.placement is Placement.EVERY_NODE:
        return observed.workload.desired if observed.workload else 0
    return SEEDED_REPLICAS if spec.replicas is None else spec.replicas
