"""Given what is there, what should be there? The whole decision about one service in one pure function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from semipd_core.api.service import Placement, ServiceStatus
from semipd_core.api.service_class import SemiPDClass
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Wish
from semipd_operator.plan.children import build_children
from semipd_operator.plan.class_choice import choose_class
from semipd_operator.plan.effective import Effective, apply_class
from semipd_operator.plan.guard_rails import GpuUse, class_defect, gpus_per_pod, replica_limit
from semipd_operator.plan.observed import Observed
from semipd_operator.plan.optional_children import INFERENCE_POOL
from semipd_operator.plan.partitions import build_partitions
from semipd_operator.plan.pin import Pin, read_pin
from semipd_operator.plan.pod import Manifest
from semipd_operator.plan.resume import kept_wishes
from semipd_operator.plan.routing import decide_route
from semipd_operator.plan.scaling import Refusal, Scaling, plan_scaling, with_scaling
from semipd_operator.plan.status import Loop, build_status
from semipd_operator.plan.target import decide_target
from semipd_operator.plan.template import wanted_template
from semipd_operator.plan.template_trial import NO_ROLLOUT, Rollout

SEEDED_REPLICAS = 1
NO_PIN = Pin()
NO_CANARIES: Mapping[str, Wish] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What the operator knows of itself and of the cluster."""

    namespace: str
    engine_image: str
    proxy_image: str | None = None  # None: no service is routed by proxies
    optional_kinds: Collection[str] = ()  # of semipd_operator.plan.optional_children
    api_server_cidrs: Collection[str] = ()  # whose pod proxy may reach the agents


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The service under its class: `effective` where it keeps to it, else the defect."""

    effective: Effective | None
    defect: InvalidSpec | None = None
    pin: Pin = NO_PIN
    replica_limit: int | None = None  # by the class's GPU budget; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    children: tuple[Manifest, ...]  # empty while the class refuses the spec: what runs is left as it is
    partitions: tuple[Manifest, ...]
    status: ServiceStatus
    seeded_replicas: int | None = None  # to be written: `/scale` cannot be read without spec.replicas
    scaling: Scaling | None = None  # None: no autoscale block


def admit(
    observed: Observed, classes: Iterable[SemiPDClass], installation: Installation, others_gpus: int
) -> Admission:
    """`others_gpus`: of the other services of the same class in this namespace.

    Raises: InvalidSpec if the bounds hold no legal split.
    """
    service = observed.service
    choice = choose_class(service, classes)
    if choice.defect is not None:
        return Admission(effective=None, defect=choice.defect)
    per_pod = gpus_per_pod(service.spec, choice.spec)
    deployed = observed.workload.desired if observed.workload else 0
    wanted = pods_wanted(observed)
    use = GpuUse(wanted=per_pod * wanted, deployed=per_pod * deployed, others=others_gpus)
    defect = class_defect(service, choice.spec, use)
    if defect is not None:
        return Admission(effective=None, defect=defect)
    effective = apply_class(service, choice.spec, operator_image=installation.engine_image)
    return Admission(
        effective=effective,
        pin=read_pin(observed, effective),
        replica_limit=replica_limit(choice.spec, use, per_pod),
    )


def build_plan(
    observed: Observed,
    admission: Admission,
    installation: Installation,
    *,
    wish: Wish | None,
    loop: Loop | None,
    now: str,
    canaries: Mapping[str, Wish] = NO_CANARIES,
    scale_refusal: Refusal | None = None,
    rollout: Rollout = NO_ROLLOUT,
    kept: dict[str, Any] | None = None,
) -> Plan:
    """`wish`: for every pod but the `canaries`; None: there is no loop, and pods keep what they are asked for. `now`: RFC 3339.

    `kept`: the pod template that is gone back to, where `rollout` holds a refusal.
    """
    service, effective = observed.service, admission.effective
    children: tuple[Manifest, ...] = ()
    route = decide_route(
        service.spec.routing,
        observed.proxies,
        has_image=installation.proxy_image is not None,
        has_pool_kind=INFERENCE_POOL in installation.optional_kinds,
    )
    if effective is not None and not observed.is_paused:
        children = tuple(
            build_children(
                effective,
                operator_namespace=installation.namespace,
                kinds=installation.optional_kinds,
                route=route,
                target=decide_target(rollout, wanted_template(effective), effective, observed, kept),
                proxy_image=installation.proxy_image,
                api_server_cidrs=installation.api_server_cidrs,
            )
        )
    partitions: list[Manifest] = []
    wishes, usual = (canaries, wish) if wish is not None else kept_wishes(observed)
    if usual is not None and not observed.is_paused:
        partitions = build_partitions(observed, wishes, usual, effective.spec if effective else None)
    scaling = plan_scaling(
        observed,
        loop,
        defect=admission.defect,
        paused=observed.is_paused,
        replica_limit=admission.replica_limit,
        refusal=scale_refusal,
        now=now,
    )
    status = build_status(
        observed,
        loop,
        admission.defect,
        now,
        pin_defect=admission.pin.defect,
        route=route,
        rollout=rollout,
    )
    return Plan(
        children=children,
        partitions=tuple(partitions),
        status=with_scaling(status, scaling, now),
        scaling=scaling,
        seeded_replicas=pods_wanted(observed) if _lacks_replicas(observed) else None,
    )


def _lacks_replicas(observed: Observed) -> bool:
    spec = observed.service.spec
    return spec.replicas is None and spec.placement is Placement.REPLICAS and not observed.is_paused


def asks_for_more(observed: Observed) -> bool:
    """Pods than are deployed: else its class's budget does not matter."""
    return pods_wanted(observed) > (observed.workload.desired if observed.workload else 0)


def pods_wanted(observed: Observed) -> int:
    """By the spec; where it says nothing, as many as there are: a manifest that gives the number to an autoscaler ends no pod.

    On every node too: a service that is new there is refused under a budget.
    """
    spec = observed.service.spec
    deployed = observed.workload.desired if observed.workload else None
    if spec.placement is Placement.EVERY_NODE:
        return deployed or 0
    if spec.replicas is not None:
        return spec.replicas
    return SEEDED_REPLICAS if deployed is None else deployed
