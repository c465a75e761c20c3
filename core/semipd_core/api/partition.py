"""SemiPDPartition: what one engine pod is asked for (spec: operator) and what its agent found (status: agent)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from semipd_core.api.conditions import CamelCase, Conditions
from semipd_core.api.fields import NonEmpty, PartitionSplit, Percent
from semipd_core.api.metadata import PodObjectMeta
from semipd_core.api.slo import PolicyName, SloSpec
from semipd_core.api.wire import Keyed, wire
from semipd_core.partition import Isolation


class GpuHealth(StrEnum):
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    UNKNOWN = "Unknown"


@wire
class BandSpec:
    """The caps inside which the agent may move by itself, inclusive. Equal ends pin the split."""

    prefill_min_percent: Percent
    prefill_max_percent: Percent
    decode_min_percent: Percent
    decode_max_percent: Percent


@wire
class PodPartitionSpec:
    """For all engines of the pod. `slo` and `policy` are the service's, and change without a restart."""

    target: PartitionSplit
    band: BandSpec | None = None  # None: the target alone
    decision_id: NonEmpty
    reason: str = ""
    message: str = ""
    slo: SloSpec | None = None  # None: what the pod was started with, as for `policy`
    policy: PolicyName | None = None


@wire
class GpuStatus:
    uuid: str
    health: GpuHealth
    message: str = ""


@wire
class EnginePartitionStatus:
    """The switch under way is the condition `Switching`."""

    name: NonEmpty
    requested: PartitionSplit
    granted: PartitionSplit | None = None  # None: not read back yet
    gpus: Annotated[tuple[GpuStatus, ...], Keyed("uuid")] = ()
    conditions: Conditions = ()


@wire
class PodIsolation:
    """What isolation `Auto` has come to in this pod, and why: chosen once, when it starts."""

    chosen: Isolation
    reason: CamelCase
    message: str = ""


@wire
class PodPartitionStatus:
    observed_generation: int | None = None
    observed_decision_id: str | None = None
    last_heartbeat_time: str | None = None  # RFC 3339
    isolation: PodIsolation | None = None  # None: nothing was to choose, or not yet
    engines: Annotated[tuple[EnginePartitionStatus, ...], Keyed("name")] = ()
    conditions: Conditions = ()


@wire
class SemiPDPartition:
    api_version: Literal["semipd.io/v1alpha1"]
    kind: Literal["SemiPDPartition"]
    metadata: PodObjectMeta
    spec: PodPartitionSpec
    status: PodPartitionStatus | None = None
