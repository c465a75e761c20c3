"""SemiPDClass: the platform team's defaults and guard-rails for services; cluster-scoped."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Literal

from semipd_core.api.conditions import Conditions
from semipd_core.api.fields import (
    AllowedShares,
    Count,
    Device,
    DnsSubdomain,
    NodeSelector,
    NonEmpty,
    Positive,
)
from semipd_core.api.metadata import ObjectMeta
from semipd_core.api.wire import wire
from semipd_core.partition import Isolation

DEFAULT_CLASS_ANNOTATION = "semipd.io/is-default-class"  # as StorageClass and IngressClass mark theirs


@wire
class ClassSpec:
    image: NonEmpty | None = None  # None: the operator's own release
    device: Device = Device.CUDA  # of services with `device: Auto`
    allowed_isolations: tuple[Isolation, ...] = tuple(Isolation)
    bounds: AllowedShares = field(default_factory=AllowedShares)  # a service's bounds are cut to these
    max_switches_per_hour: Positive = 12  # of each engine's band
    gpu_budget: Count | None = None  # GPUs of the class's services in one namespace; None: no limit
    node_selector: NodeSelector = field(default_factory=dict)
    runtime_class_name: DnsSubdomain | None = None


class ClassDevice(StrEnum):
    """What `device: Auto` of a service can turn out to be."""

    CUDA = "CUDA"
    CPU = "CPU"


@wire
class ClassStatus:
    observed_generation: int | None = None
    device: ClassDevice | None = None  # in force
    services: Count | None = None
    gpus_in_use: Count | None = None
    conditions: Conditions = ()


@wire
class SemiPDClass:
    api_version: Literal["semipd.io/v1alpha1"]
    kind: Literal["SemiPDClass"]
    metadata: ObjectMeta
    spec: ClassSpec = field(default_factory=ClassSpec)
    status: ClassStatus | None = None

    @property
    def is_default(self) -> bool:
        return self.metadata.annotations.get(DEFAULT_CLASS_ANNOTATION) == "true"
