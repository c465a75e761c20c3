"""The service as its class lets it be: device known, bounds cut, selectors joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from semipd_core.agent_config import PartitionSettings
from semipd_core.api import codec
from semipd_core.api.fields import Device, PartitionSplit, ShareBounds
from semipd_core.api.metadata import ServiceObjectMeta
from semipd_core.api.model_uri import ModelUri, parse_model_uri
from semipd_core.api.service import PartitionSpec, Placement, SemiPDService, ServiceSpec
from semipd_core.api.service_class import ClassSpec
from semipd_core.partition import Isolation
from semipd_core.service_settings import isolation_choices, partition_settings
from semipd_operator.plan.guard_rails import cut_bounds, device_of

MODELS_DIRECTORY = "/models"  # of volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What children are built from. `spec` has the class applied."""

    name: str
    namespace: str
    uid: str
    spec: ServiceSpec
    device: Device  # never Auto
    image: str
    max_switches_per_hour: int
    allowed_isolations: tuple[Isolation, ...] = tuple(Isolation)  # among which `Auto` chooses

    @property
    def partition(self) -> PartitionSettings:
        """As the pods are to have it; what they have may differ (`isolation.fleet_partition`)."""
        return partition_settings(self.spec.partition, self.allowed_isolations)

    @property
    def allows_all_of_auto(self) -> bool:
        """Then pods need not be told."""
        allowed = isolation_choices(self.spec.partition, self.allowed_isolations)
        return allowed == isolation_choices(self.spec.partition)

    @property
    def model(self) -> ModelUri:
        return parse_model_uri(self.spec.model.uri, "spec.model.uri")

    @property
    def gpus_per_pod(self) -> int:
        resources = self.spec.resources
        return 0 if self.device is Device.CPU else resources.gpus_per_engine * resources.engines_per_pod


def apply_class(service: SemiPDService, cls: ClassSpec, *, operator_image: str) -> Effective:
    """`service` has no defect against `cls`. `operator_image`: the engine image of the operator's own release."""
    spec, metadata = service.spec, service.metadata
    bounds = cut_bounds(spec.partition.bounds, cls.bounds)
    partition = replace(spec.partition, bounds=bounds, initial=_inside(spec.partition.initial_split, bounds))
    scheduling = replace(
        spec.scheduling,
        node_selector={**spec.scheduling.node_selector, **cls.node_selector},
        runtime_class_name=spec.scheduling.runtime_class_name or cls.runtime_class_name,
    )
    device = device_of(spec, cls)
    return Effective(
        name=metadata.name,
        namespace=metadata.namespace or "default",
        uid=metadata.uid or "",
        spec=replace(
            spec,
            partition=partition,
            scheduling=scheduling,
            resources=replace(spec.resources, device=device),
        ),
        device=device,
        image=cls.image or operator_image,
        max_switches_per_hour=cls.max_switches_per_hour,
        allowed_isolations=cls.allowed_isolations,
    )


def pod_manifest(effective: Effective) -> Mapping[str, object]:
    """The service as one pod serves it: what `semipd pod` reads. Nothing in it that a pod need not restart for.

    Replicas, autoscaling, rollout, routing, placement and scheduling are the cluster's; a mounted model is a file; SLO, policy
    and split come by the pod's partition.
    """
    spec, resources = effective.spec, effective.spec.resources
    metadata = ServiceObjectMeta(name=effective.name, namespace=effective.namespace)
    trimmed = ServiceSpec(
        model=replace(spec.model, uri=mounted_uri(effective.model, spec.model.uri), cache=None),
        placement=Placement.EVERY_NODE,
        resources=replace(resources, cpu=None, memory=None),
        http=spec.http,
        partition=PartitionSpec(isolation=spec.partition.isolation),
        drain=spec.drain,
    )
    pod = SemiPDService(
        api_version="semipd.io/v1alpha1", kind="SemiPDService", metadata=metadata, spec=trimmed
    )
    return codec.encode(pod)


def mounted_uri(model: ModelUri, uri: str) -> str:
    """Volumes are mounted under MODELS_DIRECTORY."""
    if model.scheme == "image":
        return f"file://{MODELS_DIRECTORY}"
    if model.scheme == "pvc":
        _, _, path = model.location.partition("/")
        return f"file://{MODELS_DIRECTORY}/{path}".rstrip("/")
    return uri


def _inside(split: PartitionSplit, bounds: ShareBounds) -> PartitionSplit:
    return PartitionSplit(
        prefill_percent=min(
            max(split.prefill_percent, bounds.prefill_min_percent), bounds.prefill_max_percent
        ),
        decode_percent=min(max(split.decode_percent, bounds.decode_min_percent), bounds.decode_max_percent),
    )
