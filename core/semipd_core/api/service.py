"""SemiPDService: a model, its SLO, and how the split between prefill and decode may move."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Annotated, Literal

from semipd_core.api.conditions import Conditions
from semipd_core.api.fields import (
    Count,
    CpuQuantity,
    Device,
    DnsSubdomain,
    LocalRef,
    ModelUriText,
    NodeSelector,
    NonEmpty,
    PartitionSplit,
    Percent,
    Permille,
    Positive,
    Quantity,
    Seconds,
    SecretKeyRef,
    ShareBounds,
    Toleration,
)
from semipd_core.api.metadata import ServiceObjectMeta
from semipd_core.api.partition import BandSpec
from semipd_core.api.slo import PolicyName, SloSpec
from semipd_core.api.wire import Between, Keyed, wire

MAX_CANARY_PODS = 100
DEFAULT_SPLIT = PartitionSplit(prefill_percent=80, decode_percent=100)


class Dtype(StrEnum):
    AUTO = "Auto"
    BF16 = "BF16"
    FP32 = "FP32"
    FP8 = "FP8"


class Placement(StrEnum):
    REPLICAS = "Replicas"
    EVERY_NODE = "EveryNode"


class Routing(StrEnum):
    SERVICE = "Service"
    PROXY = "Proxy"
    INFERENCE_POOL = "InferencePool"


class PartitionMode(StrEnum):
    AUTO = "Auto"
    ADVISORY = "Advisory"  # decides and says why, applies nothing
    STATIC = "Static"


class CanaryStage(StrEnum):
    """How far a split, or a pod template, on trial has come."""

    ONE_POD = "OnePod"
    PERCENT = "Percent"  # spec.rollout.canaryPercent of the pods
    ROLLED_BACK = (
        "RolledBack"  # a split, and what is farther the same way, for a while; a template until it changes
    )


class IsolationChoice(StrEnum):
    """`semipd_core.partition.Isolation`, or the best that the device has."""

    AUTO = "Auto"
    MPS = "MPS"
    GREEN_CONTEXT = "GreenContext"
    NONE = "None"
    UNIFIED = "Unified"


@wire
class VolumeClaimRef:
    claim_name: DnsSubdomain


@wire
class ModelCache:
    persistent_volume_claim: VolumeClaimRef


@wire
class ModelSpec:
    uri: ModelUriText
    token_secret_ref: SecretKeyRef | None = None  # for gated models
    cache: ModelCache | None = None  # None: an emptyDir
    served_name: NonEmpty | None = None  # None: derived from the URI
    dtype: Dtype = Dtype.AUTO
    max_context_tokens: Annotated[int, Between(1, 100_000_000)] | None = None  # None: what the model has


@wire
class ResourcesSpec:
    device: Device = Device.AUTO
    gpus_per_engine: Positive = 1  # tensor-parallel size
    engines_per_pod: Positive = 1
    cpu: CpuQuantity | None = None
    memory: Quantity | None = None
    kv_cache: Quantity | None = None  # per engine; None: what is left


@wire
class SchedulingSpec:
    node_selector: NodeSelector = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    image_pull_secrets: Annotated[tuple[LocalRef, ...], Keyed("name")] = ()
    runtime_class_name: DnsSubdomain | None = None


@wire
class HttpSpec:
    api_key_secret_ref: SecretKeyRef | None = None  # None: no key is asked for
    max_queued_requests: Positive = 256  # beyond it: 429


@wire
class PartitionSpec:
    mode: PartitionMode = PartitionMode.AUTO
    policy: PolicyName = PolicyName.MODEL_PREDICTIVE
    isolation: IsolationChoice = IsolationChoice.AUTO
    initial: PartitionSplit | None = None  # None: DEFAULT_SPLIT, moved inside the bounds
    bounds: ShareBounds = field(default_factory=ShareBounds)
    cooldown_seconds: Seconds = 30  # between moves of the band

    @property
    def initial_split(self) -> PartitionSplit:
        if self.initial is not None:
            return self.initial
        return PartitionSplit(
            prefill_percent=min(
                max(DEFAULT_SPLIT.prefill_percent, self.bounds.prefill_min_percent),
                self.bounds.prefill_max_percent,
            ),
            decode_percent=min(
                max(DEFAULT_SPLIT.decode_percent, self.bounds.decode_min_percent),
                self.bounds.decode_max_percent,
            ),
        )


@wire
class AutoscaleSpec:
    min_replicas: Positive = 1
    max_replicas: Positive


@wire
class RolloutSpec:
    max_surge: Count = 1
    max_unavailable: Count = 0
    canary_percent: Percent = 25


@wire
class DrainSpec:
    timeout_seconds: Seconds = 120


@wire
class ServiceSpec:
    model: ModelSpec
    class_ref: LocalRef | None = None  # None: the default SemiPDClass
    slo: SloSpec = field(default_factory=SloSpec)
    placement: Placement = Placement.REPLICAS
    replicas: Count | None = None  # no default: an autoscaler may own it
    resources: ResourcesSpec = field(default_factory=ResourcesSpec)
    scheduling: SchedulingSpec = field(default_factory=SchedulingSpec)
    http: HttpSpec = field(default_factory=HttpSpec)
    routing: Routing = Routing.SERVICE
    partition: PartitionSpec = field(default_factory=PartitionSpec)
    autoscale: AutoscaleSpec | None = None
    rollout: RolloutSpec = field(default_factory=RolloutSpec)
    drain: DrainSpec = field(default_factory=DrainSpec)


@wire
class DecisionRecord:
    """A decision of the cluster loop; `time` is RFC 3339."""

    time: str
    decision_id: str
    partition: PartitionSplit
    reason: str
    message: str


@wire
class CanaryStatus:
    """A split on trial in a few pods, or the one that was rolled back last. Written before any pod is asked for it."""

    partition: PartitionSplit
    decision_id: str
    stage: CanaryStage
    since: str  # RFC 3339: of the stage
    pods: tuple[
        DnsSubdomain, ...
    ] = ()  # the first MAX_CANARY_PODS by name; all that ask for decision_id are meant
    judged_before: int = 0  # requests in the window before the trial
    attained_before: int = 0


@wire
class RolloutStatus:
    """A pod template on trial in a few pods, or the one that was rolled back last. Written before any pod runs it."""

    template: NonEmpty  # digest of what is on trial
    base: NonEmpty  # digest of what the other pods run, and all after a roll-back
    image: str = ""  # of the template on trial
    model: str = ""
    stage: CanaryStage
    since: str  # RFC 3339: of the stage
    pods: tuple[DnsSubdomain, ...] = ()  # the first MAX_CANARY_PODS by name that run it
    judged: int = 0  # requests of these pods, in this stage
    attained: int = 0
    judged_before: int = 0  # requests in the window before the trial
    attained_before: int = 0
    message: str = ""  # RolledBack: why, with both numbers


@wire
class ScalingRecord:
    """A change of spec.replicas by the `autoscale` block; `time` is RFC 3339."""

    time: str
    from_replicas: Count
    to_replicas: Count
    reason: str
    message: str
    tokens_per_second_per_pod: int | None = None  # the load then; what was too much once is remembered


@wire
class SloStatus:
    """The pooled window of the last look; None where nothing was measured."""

    attainment_permille: Permille | None = None
    ttft_milliseconds: int | None = None  # at the target's percentile
    tpot_milliseconds: int | None = None


@wire
class ServiceStatus:
    observed_generation: int | None = None
    mode: PartitionMode | None = None  # in force: the one before while the class refuses the spec
    placement: Placement | None = None  # likewise
    replicas: Count | None = None
    ready_replicas: Count | None = None
    updated_replicas: Count | None = None
    selector: str | None = None  # for /scale
    requested: PartitionSplit | None = None
    granted: PartitionSplit | None = None
    slo: SloStatus | None = None
    decisions: tuple[DecisionRecord, ...] = ()  # the last 10, newest first
    canary: CanaryStatus | None = None
    rollout: RolloutStatus | None = None
    proven: BandSpec | None = None  # None: no split has met the SLO yet
    scalings: tuple[ScalingRecord, ...] = ()  # the last 5, newest first
    conditions: Conditions = ()


@wire
class SemiPDService:
    api_version: Literal["semipd.io/v1alpha1"]
    kind: Literal["SemiPDService"]
    metadata: ServiceObjectMeta
    spec: ServiceSpec
    status: ServiceStatus | None = None
