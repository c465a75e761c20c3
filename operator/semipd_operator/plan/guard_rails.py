"""Does a service keep to its class? Each rule returns a defect with field, value and limit, or None."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.api.fields import Device, ShareBounds
from semipd_core.api.service import IsolationChoice, Placement, SemiPDService, ServiceSpec
from semipd_core.api.service_class import ClassSpec
from semipd_core.errors import InvalidSpec
from semipd_core.service_settings import ranks_defect


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """GPUs in the service's namespace under the same class."""

    wanted: int  # by the service's spec
    deployed: int  # by its workload as it is
    others: int  # by other services: their workloads, or what these are about to be


def class_defect(service: SemiPDService, cls: ClassSpec, use: GpuUse) -> InvalidSpec | None:
    return (
        _isolation_defect(service.spec, cls)
        or ranks_defect(service.spec, device_of(service.spec, cls), cls.allowed_isolations)
        or _bounds_defect(service.spec, cls)
        or _placement_defect(service.spec, cls, use)
        or _budget_defect(cls, use)
    )


def device_of(spec: ServiceSpec, cls: ClassSpec) -> Device:
    given = spec.resources.device
    return cls.device if given is Device.AUTO else given


def gpus_per_pod(spec: ServiceSpec, cls: ClassSpec) -> int:
    if device_of(spec, cls) is Device.CPU:
        return 0
    return spec.resources.gpus_per_engine * spec.resources.engines_per_pod


def replica_limit(cls: ClassSpec, use: GpuUse, per_pod: int) -> int | None:
    """What an autoscaler may ask for without being refused; never fewer than there are. None: no limit."""
    if cls.gpu_budget is None or per_pod == 0:
        return None
    return max(use.deployed, cls.gpu_budget - use.others) // per_pod


def cut_bounds(bounds: ShareBounds, limits: ShareBounds) -> ShareBounds:
    """Where both hold. May be empty: `class_defect` says so."""
    return ShareBounds(
        prefill_min_percent=max(bounds.prefill_min_percent, limits.prefill_min_percent),
        prefill_max_percent=min(bounds.prefill_max_percent, limits.prefill_max_percent),
        decode_min_percent=max(bounds.decode_min_percent, limits.decode_min_percent),
        decode_max_percent=min(bounds.decode_max_percent, limits.decode_max_percent),
    )


def _isolation_defect(spec: ServiceSpec, cls: ClassSpec) -> InvalidSpec | None:
    chosen = spec.partition.isolation
    allowed = [isolation.value for isolation in cls.allowed_isolations]
    if chosen is IsolationChoice.AUTO or chosen.value in allowed:
        return None
    return InvalidSpec(
        "spec.partition.isolation", chosen.value, f"one of Auto, {', '.join(allowed)} (by the class)"
    )


def _bounds_defect(spec: ServiceSpec, cls: ClassSpec) -> InvalidSpec | None:
    cut = cut_bounds(spec.partition.bounds, cls.bounds)
    for role in ("prefill", "decode"):
        if getattr(cut, f"{role}_min_percent") <= getattr(cut, f"{role}_max_percent"):
            continue
        own = _range(spec.partition.bounds, role)
        return InvalidSpec(
            f"spec.partition.bounds.{role}MinPercent",
            own,
            f"a part of {_range(cls.bounds, role)} (by the class)",
        )
    return None


def _range(bounds: ShareBounds, role: str) -> str:
    return f"{getattr(bounds, f'{role}_min_percent')}..{getattr(bounds, f'{role}_max_percent')}"


def _placement_defect(spec: ServiceSpec, cls: ClassSpec, use: GpuUse) -> InvalidSpec | None:
    """Nodes come and go, and a pod with each: no budget would hold them. One that runs goes on."""
    if spec.placement is not Placement.EVERY_NODE or cls.gpu_budget is None or use.deployed > 0:
        return None
    if gpus_per_pod(spec, cls) == 0:
        return None
    return InvalidSpec("spec.placement", spec.placement.value, "Replicas (the class has a gpuBudget)")


def _budget_defect(cls: ClassSpec, use: GpuUse) -> InvalidSpec | None:
    """Only who asks for more is refused: a budget that shrinks stops nothing that runs."""
    if cls.gpu_budget is None or use.wanted <= use.deployed or use.wanted + use.others <= cls.gpu_budget:
        return None
    return InvalidSpec(
        "spec.replicas",
        f"{use.wanted} GPUs",
        f"at most {max(0, cls.gpu_budget - use.others)} of the {cls.gpu_budget} that the class allows in a namespace",
    )
