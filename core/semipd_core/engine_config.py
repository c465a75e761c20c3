"""The settings of one engine, written by the agent as `engine.json` and read by each of its processes."""

from __future__ import annotations

from enum import StrEnum

from semipd_core.latency.share_curve import RoleCurves
from semipd_core.partition import Band, Isolation
from semipd_core.telemetry import SloTargets, Wire


class AttentionKernels(StrEnum):
    """Whose kernels compute attention on a GPU."""

    AUTO = "Auto"
    TRITON = "Triton"  # the engine's own
    FLASHINFER = "FlashInfer"


class EngineConfig(Wire, frozen=True, kw_only=True):
    """Everything an engine's processes need. Paths of sockets and files derive from `directory`."""

    engine_id: str
    directory: str  # of this engine, private to the user; absolute
    agent_lock: str  # flocked by the living agent; processes stop when it has been free for 30 s
    zygote_socket: str
    model_uri: str
    served_name: str
    dtype: str  # "Auto" (on CUDA: BF16), "BF16", "FP32", "FP8"
    max_context_tokens: int | None  # None: what the model has
    kv_bytes: int | None  # None: chosen by the memory server
    block_tokens: int
    max_rows: int  # sequences at most in one decode step
    prefill_budget_tokens: int  # of one prefill step (chunk)
    mixed_budget_tokens: int  # of one mixed step, decode rows included (`Unified`)
    prefill_policy: str  # "SPF" or "FCFS"
    spf_aging_tokens_per_s: float
    spf_max_wait_s: float
    run_ahead: int  # steps in flight per lane at most, 1 = none ahead
    isolation: Isolation
    cpus: list[int]  # affinity of the lanes
    host: str | None  # front end on TCP; None: on the unix socket `front_socket` only
    port: int | None
    api_key: str | None
    max_queued_requests: int
    slo: SloTargets
    prefix_cache: bool = True
    duplex_lane: bool = False  # both roles in one lane process, one thread launches (GreenContext on CUDA)
    bounds: Band | None = None  # of the service's shares: green contexts are made for the splits inside
    curves: RoleCurves | None = (
        None  # measured speeds at a share, for the choice of a step's split; None: assumed ones
    )
    device: str = "CPU"  # or "CUDA"
    gpu: str | None = None  # UUID as NVML writes it, or `#` and its number; None: the first that CUDA shows
    other_gpus: tuple[str, ...] = ()  # of the ranks after the first, on CUDA; as `gpu`
    mps_pipe_directory: str | None = None  # lanes are clients of the MPS daemon there; None: they are not
    attention_kernels: AttentionKernels = AttentionKernels.AUTO  # on CUDA
    num_ranks: int = 1  # processes of each lane, each with its shard of the model: the tensor-parallel size

    @property
    def num_slots(self) -> int:
        """Rows of a lane's block table: requests that may hold KV blocks at once, prefilling ones included."""
        return 4 * self.max_rows

    @property
    def memory_socket(self) -> str:
        return self.directory + "/memory.sock"

    def memory_socket_of(self, rank: int) -> str:
        """Where a rank of a lane gets its shard of the weights and of the KV cache; the first rank's is `memory_socket`."""
        return self.memory_socket if rank == 0 else f"{self.directory}/memory-{rank}.sock"

    def gpu_of(self, rank: int) -> str | None:
        return self.gpu if rank == 0 else self.other_gpus[rank - 1]

    @property
    def coordinator_socket(self) -> str:
        return self.directory + "/coordinator.sock"

    @property
    def front_socket(self) -> str:
        """The front end's HTTP on a unix socket: always there, for the agent and the local proxy."""
        return self.directory + "/front.sock"

    @property
    def model_directory(self) -> str:
        """Written by the memory server before it loads weights: `model.json`, `tokenizer.json`, `chat_template.jinja`."""
        return self.directory + "/model"

    @property
    def error_file(self) -> str:
        """Where a process that exits with code 2 leaves its `SpecError` as JSON."""
        return self.directory + "/error.json"

    @property
    def memory_problem_file(self) -> str:
        """Why the memory server ended, in one line, where it may be started again: waiting can help."""
        return self.directory + "/memory-problem"

    @property
    def lane_problem_file(self) -> str:
        """Why a lane ended for want of GPU memory, in one line: the next one ends so too until somebody acts."""
        return self.directory + "/lane-problem"


class SpecError(Wire, frozen=True, kw_only=True):
    """An `InvalidSpec` on its way from a process to the user."""

    path: str
    given: str
    allowed: str
