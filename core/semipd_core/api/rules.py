"""Rules that span several fields. Each returns the first defect, or None.

What a CustomResourceDefinition says in CEL stands here in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

from semipd_core.api.fields import (
    LABEL_KEY,
    Device,
    NodeSelector,
    PartitionSplit,
    ShareBounds,
    TaintEffect,
    Toleration,
    TolerationOperator,
)
from semipd_core.api.partition import BandSpec, SemiPDPartition
from semipd_core.api.service import AutoscaleSpec, Placement, RolloutSpec, SemiPDService, ServiceSpec
from semipd_core.api.service_class import ClassSpec, SemiPDClass
from semipd_core.errors import InvalidSpec


def service_defect(service: SemiPDService) -> InvalidSpec | None:
    spec = service.spec
    return (
        _placement_defect(spec)
        or _bounds_defect(spec.partition.bounds, "spec.partition.bounds")
        or _initial_defect(spec.partition.initial, spec.partition.bounds)
        or _autoscale_defect(spec.autoscale)
        or _rollout_defect(spec.rollout)
        or _selector_defect(spec.scheduling.node_selector, "spec.scheduling.nodeSelector")
        or _tolerations_defect(spec.scheduling.tolerations)
    )


def class_defect(cls: SemiPDClass) -> InvalidSpec | None:
    return (
        _bounds_defect(cls.spec.bounds, "spec.bounds")
        or _class_choices_defect(cls.spec)
        or _selector_defect(cls.spec.node_selector, "spec.nodeSelector")
    )


def partition_defect(partition: SemiPDPartition) -> InvalidSpec | None:
    band = partition.spec.band
    if band is None:
        return None
    return _bounds_defect(band, "spec.band") or _split_defect(
        partition.spec.target, "spec.target", band, "band"
    )


def _placement_defect(spec: ServiceSpec) -> InvalidSpec | None:
    if spec.placement is Placement.REPLICAS:
        return None
    allowed = "absent with placement EveryNode: the nodes decide"
    if spec.replicas is not None:
        return InvalidSpec("spec.replicas", spec.replicas, allowed)
    if spec.autoscale is not None:
        return InvalidSpec("spec.autoscale.maxReplicas", spec.autoscale.max_replicas, allowed)
    return None


def _bounds_defect(bounds: ShareBounds | BandSpec, path: str) -> InvalidSpec | None:
    for role, low, high in (
        ("prefill", bounds.prefill_min_percent, bounds.prefill_max_percent),
        ("decode", bounds.decode_min_percent, bounds.decode_max_percent),
    ):
        if low > high:
            return InvalidSpec(f"{path}.{role}MinPercent", low, f"at most {role}MaxPercent, which is {high}")
    return None


def _initial_defect(initial: PartitionSplit | None, bounds: ShareBounds) -> InvalidSpec | None:
    return None if initial is None else _split_defect(initial, "spec.partition.initial", bounds, "bounds")


def _split_defect(
    split: PartitionSplit, path: str, bounds: ShareBounds | BandSpec, name: str
) -> InvalidSpec | None:
    for role, percent, low, high in (
        ("prefill", split.prefill_percent, bounds.prefill_min_percent, bounds.prefill_max_percent),
        ("decode", split.decode_percent, bounds.decode_min_percent, bounds.decode_max_percent),
    ):
        if not low <= percent <= high:
            return InvalidSpec(f"{path}.{role}Percent", percent, f"{low}..{high}, the {name} of {role}")
    return None


def _autoscale_defect(autoscale: AutoscaleSpec | None) -> InvalidSpec | None:
    if autoscale is None or autoscale.min_replicas <= autoscale.max_replicas:
        return None
    allowed = f"at most maxReplicas, which is {autoscale.max_replicas}"
    return InvalidSpec("spec.autoscale.minReplicas", autoscale.min_replicas, allowed)


def _rollout_defect(rollout: RolloutSpec) -> InvalidSpec | None:
    if rollout.max_surge or rollout.max_unavailable:
        return None
    return InvalidSpec(
        "spec.rollout.maxUnavailable", 0, "1 or more while maxSurge is 0: else no pod can be replaced"
    )


def _selector_defect(selector: NodeSelector, path: str) -> InvalidSpec | None:
    """Its values are the business of their type."""
    for key in selector:
        allowed = LABEL_KEY.refusal(key)
        if allowed is not None:
            return InvalidSpec(path, key, allowed)
    return None


def _tolerations_defect(tolerations: Sequence[Toleration]) -> InvalidSpec | None:
    for index, toleration in enumerate(tolerations):
        defect = _toleration_defect(toleration, f"spec.scheduling.tolerations[{index}]")
        if defect is not None:
            return defect
    return None


def _toleration_defect(toleration: Toleration, path: str) -> InvalidSpec | None:
    """What Kubernetes would say of the pod."""
    operator, value = toleration.operator or TolerationOperator.EQUAL, toleration.value
    if toleration.key is None and operator is not TolerationOperator.EXISTS:
        return InvalidSpec(
            f"{path}.operator", operator.value, "Exists where key is absent, which means all keys"
        )
    if operator is TolerationOperator.EXISTS and value:
        return InvalidSpec(f"{path}.value", value, "absent with operator Exists, which asks for no value")
    seconds = toleration.toleration_seconds
    if seconds is not None and toleration.effect is not TaintEffect.NO_EXECUTE:
        return InvalidSpec(f"{path}.tolerationSeconds", seconds, "absent unless effect is NoExecute")
    return None


def _class_choices_defect(spec: ClassSpec) -> InvalidSpec | None:
    if spec.device is Device.AUTO:
        return InvalidSpec("spec.device", "Auto", "one of CUDA, CPU: the class is what Auto falls back to")
    isolations = spec.allowed_isolations
    if not isolations or len(set(isolations)) < len(isolations):
        return InvalidSpec(
            "spec.allowedIsolations", list(map(str, isolations)), "a list without repeats, not empty"
        )
    return None
