"""What an agent is told at start (`service.json`), and what it answers under `GET /v1/status`. JSON, camelCase."""

from __future__ import annotations

import msgspec

from semipd_core.engine_config import AttentionKernels
from semipd_core.partition import Isolation
from semipd_core.profile.format import Profile
from semipd_core.telemetry import SloTargets, Wire

ENDPOINT_LAG_S = 5  # until everybody's endpoints are without a pod that is not ready
AS_ASKED, PROBE_PASSED = "AsAsked", "ProbePassed"  # reasons of an `IsolationStatus`


class PartitionSettings(Wire, frozen=True, kw_only=True):
    """The service's `spec.partition` with all defaults filled in. Percent."""

    mode: str  # "Auto", "Advisory", "Static"
    policy: str  # "ModelPredictive", "SLOFeedback", "Static"
    isolation: Isolation
    # What an agent on CUDA takes, the first that can be had, where its probe at start refuses `isolation`; empty: nothing else.
    fallbacks: tuple[Isolation, ...] = ()
    initial_prefill_percent: int
    initial_decode_percent: int
    prefill_min_percent: int
    prefill_max_percent: int
    decode_min_percent: int
    decode_max_percent: int
    cooldown_seconds: int

    @property
    def has_fallen_back(self) -> bool:
        """Of the settings in force: `isolation` is not what was asked for first."""
        return self.isolation in self.fallbacks


class KubernetesSettings(Wire, frozen=True, kw_only=True):
    """The agent's SemiPDPartition, which has its pod's name, and where the agent's readings are served."""

    namespace: str
    name: str
    agent_port: int


class StandbySettings(Wire, frozen=True, kw_only=True):
    """Lanes kept warm at other shares than those in force, of each engine (MPS)."""

    lanes_max: int = 0  # 0: a lane that was replaced ends
    max_age_s: float = 900.0  # one that nobody came back to for so long ends


class AgentConfig(Wire, frozen=True, kw_only=True):
    """One pod (or machine): `engines` engines of one service, behind one address."""

    service: str
    engines: int
    device: str  # "CPU" or "CUDA"
    host: str
    port: int
    model_uri: str
    served_name: str
    dtype: str  # "Auto", "BF16", "FP32", "FP8"
    max_context_tokens: int | None
    kv_bytes: int | None  # per engine; None: chosen by the memory server
    block_tokens: int
    max_rows: int
    prefill_budget_tokens: int
    mixed_budget_tokens: int
    prefill_policy: str
    spf_aging_tokens_per_s: float
    spf_max_wait_s: float
    run_ahead: int
    prefix_cache: bool
    api_key: str | None
    max_queued_requests: int
    drain_timeout_seconds: int
    slo: SloTargets
    partition: PartitionSettings
    profile: Profile | None = None  # of this device and model; None: the loops learn from the first requests
    kubernetes: KubernetesSettings | None = None  # None: wishes come by file and HTTP alone
    attention_kernels: AttentionKernels = AttentionKernels.AUTO  # on CUDA
    num_ranks: int = 1  # of each lane: the tensor-parallel size
    standby: StandbySettings = StandbySettings()

    @property
    def drain_lag_s(self) -> float:
        """How long new requests are served after the drain has begun; the drain timeout comes after it."""
        return 0.0 if self.kubernetes is None else ENDPOINT_LAG_S


class WishWire(Wire, frozen=True, kw_only=True):
    """A wish as `PUT /v1/wish` and `wish.json` carry it.

    `pinned`: only another pinned wish takes its place, or one whose `releases` is its `decision_id`. So a loop that decided
    before it saw a wish by hand cannot undo it. `slo` and `policy` are what the service says now, where the agent is told of
    it by its wishes; None: what it was started with.
    """

    target: PartitionWire
    decision_id: str
    band: BandWire | None = None  # None: the target alone
    reason: str = "Manual"
    message: str = ""
    pinned: bool = False
    releases: str | None = None
    slo: SloTargets | None = None
    policy: str | None = None


class PartitionWire(Wire, frozen=True, kw_only=True):
    prefill_percent: int
    decode_percent: int


class BandWire(Wire, frozen=True, kw_only=True):
    prefill_min_percent: int
    prefill_max_percent: int
    decode_min_percent: int
    decode_max_percent: int


class ProcessStatus(Wire, frozen=True, kw_only=True):
    role: str  # agent, zygote, proxy, memory, coordinator, frontend, prefill, decode, mixed
    pid: int
    requested_percent: int | None = None  # lanes only
    granted_percent: int | None = None
    restarts: int = 0
    standby: bool = False  # a lane that waits, warm, without work


class SwitchStatus(Wire, frozen=True, kw_only=True):
    """The switch under way, or the last one."""

    decision_id: str
    at_s: float  # unix time of the wish
    from_partition: PartitionWire
    to_partition: PartitionWire
    reason: str
    message: str
    seconds: float | None  # wish to effect; None while under way
    outcome: str  # "Switching", "Done", "RolledBack"
    form: str | None = (
        None  # `semipd_core.repartition.SwitchForm`; None while it is not effective, or not known
    )


class EngineStatus(Wire, frozen=True, kw_only=True):
    engine_id: str
    phase: str
    isolation: Isolation
    requested: PartitionWire
    granted: PartitionWire | None
    processes: list[ProcessStatus]
    kv_blocks_total: int
    kv_blocks_used: int
    ready: bool
    switch: SwitchStatus | None = None
    error: str | None = None


class DecisionStatus(Wire, frozen=True, kw_only=True):
    """A decision of any loop, newest first in lists."""

    at_s: float
    loop: str  # "cluster", "node", "manual"
    engine_id: str | None  # None: all engines
    partition: PartitionWire
    changed: bool
    reason: str
    message: str


class FaultStatus(Wire, frozen=True, kw_only=True):
    """What is wrong in the pod. `reason`: one CamelCase word, `semipd_agent.faults.FaultReason`."""

    reason: str
    message: str


class IsolationStatus(Wire, frozen=True, kw_only=True):
    """The isolation in force. `reason`: one CamelCase word, `AS_ASKED`, `PROBE_PASSED`, or why it is not the first choice."""

    isolation: Isolation
    reason: str
    message: str


class AgentStatus(Wire, frozen=True, kw_only=True):
    service: str
    url: str
    ready: bool
    draining: bool
    agent: ProcessStatus
    shared: list[ProcessStatus]  # zygote, proxy
    engines: list[EngineStatus]
    wish: WishWire | None
    decisions: list[DecisionStatus]  # the last 10
    switches: list[SwitchStatus]  # the last 100, oldest first
    attainment_permille: int | None  # None: idle or no data
    started_s: float = msgspec.field(default=0.0)
    problems: list[str] = msgspec.field(default_factory=list)  # what the agent could not do and tries again
    faults: list[FaultStatus] = msgspec.field(default_factory=list)  # the gravest first
    isolation: IsolationStatus | None = None  # None: an agent that does not choose
