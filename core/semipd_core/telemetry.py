"""What engines report about themselves: the wire form of windows, lanes and steps (JSON over HTTP, camelCase).

The meaning of a window (attainment, percentiles, idle / no data / bad) lives in `semipd_core.slo`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from semipd_core.partition import Role

SLOT_SECONDS = 2  # width of one window slot; slots start at multiples of it in unix time
SLOTS_KEPT = 60
MAX_BUCKET = 1000  # of a histogram: no latency comes near, and what its buckets stand for is still a float

Bucket = Annotated[int, msgspec.Meta(ge=0, le=MAX_BUCKET)]


class Wire(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base of all report types."""


class WindowSlot(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """Counts and histograms of one slot. A request is judged once: when it ends, or as soon as a miss is certain.

    Histograms are sparse {bucket index: count} (`semipd_core.slo.histogram`). Counts of 0 are left out on the wire.
    """

    start_s: int  # unix time, a multiple of SLOT_SECONDS
    arrived: int = 0
    completed: int = 0
    attained: int = 0
    missed: int = 0  # judged and not attained: late, failed, refused (429)
    missed_ttft: int = 0
    missed_tpot: int = 0
    rejected: int = 0
    errored: int = 0
    prompt_tokens: int = 0  # of arrivals
    cached_tokens: int = 0
    output_tokens: int = 0  # sent in this slot
    ttft_ms: dict[Bucket, int] = msgspec.field(default_factory=dict)
    tpot_ms: dict[Bucket, int] = msgspec.field(default_factory=dict)


class StepSample(Wire, frozen=True, kw_only=True, array_like=True):
    """One executed step, for latency models. Wall time includes waiting for the device's arbiter.

    An array on the wire, in this order: names would be most of a report, and of what an operator holds while agents hang.
    """

    role: Role
    at_ns: int  # monotonic, when it ended
    rows: int
    tokens: int  # computed in this step
    context_tokens: int  # KV entries read, summed over rows
    wall_us: int
    compute_us: int
    prefill_percent: int  # caps in force
    decode_percent: int
    contended_permille: int  # part of the wall time during which the other lane also had a step in flight


class LaneReport(Wire, frozen=True, kw_only=True):
    """A lane as the coordinator sees it. Counters are cumulative since the coordinator started, per role."""

    lane_id: str
    role: Role
    pid: int
    active: bool
    requested_percent: int
    granted_percent: int
    batch: int  # rows of the step in flight, 0 when idle
    steps: int
    tokens: int
    busy_us: int  # wall time with a step in flight
    compute_us: int
    private_bytes: int = 0  # that its end would free; 0: it does not know


class SplitUse(Wire, frozen=True, kw_only=True):
    """Steps of one role at one split that the coordinator chose for them (GreenContext). Cumulative, as in LaneReport."""

    role: Role
    prefill_percent: int
    decode_percent: int
    steps: int
    busy_us: int


class CoordinatorReport(Wire, frozen=True, kw_only=True):
    """Queues, KV cache, lanes and the latest steps of one engine."""

    waiting: int  # no block yet
    prefilling: int
    decoding: int
    kv_blocks_total: int
    kv_blocks_used: int
    kv_blocks_cached: int  # free but holding reusable prefixes
    block_tokens: int
    waiting_tokens: int  # prompt tokens not yet computed, of waiting and prefilling requests
    oldest_wait_ms: int
    preemptions: int
    prefix_hit_tokens: int
    lane_restarts: int
    lanes: list[LaneReport] = msgspec.field(default_factory=list)
    samples: list[StepSample] = msgspec.field(default_factory=list)  # the latest 64 per role
    splits: list[SplitUse] = msgspec.field(
        default_factory=list
    )  # none where steps have no split of their own


class EngineUsage(Wire, frozen=True, kw_only=True):
    """Of a CoordinatorReport what an endpoint picker reads, several times a second. `GET /internal/usage` of a front end."""

    waiting: int  # no step has begun
    running: int  # in prefill or decode
    kv_blocks_total: int
    kv_blocks_used: int
    block_tokens: int


class SloTargets(Wire, frozen=True, kw_only=True):
    ttft_percentile: int
    ttft_ms: int
    tpot_percentile: int
    tpot_ms: int


class FrontEndReport(Wire, frozen=True, kw_only=True):
    """`GET /internal/window` of a front end."""

    at_s: float  # unix time
    ready: bool
    slo: SloTargets
    open_requests: int
    queued_requests: int  # open, no token yet
    slots: list[WindowSlot]


class PodLoad(Wire, frozen=True, kw_only=True):
    """All engines of one pod as a router needs them: `GET /v1/load` of the agent. Small, because it is asked every second."""

    ready: bool  # takes new requests
    open_requests: (
        int | None
    )  # None: no engine says; an engine that is silent while others speak counts as none
    queued_requests: int | None  # open, no token yet
    kv_used_permille: int | None
    age_ms: int | None  # of the oldest report in it, by the pod's clock


class EngineReport(Wire, frozen=True, kw_only=True):
    """One engine as its agent reports it: `GET /v1/windows` of the agent returns a list of these."""

    engine_id: str
    at_s: float
    phase: str  # semipd_core.repartition.Phase
    requested: tuple[int, int]  # prefill, decode percent
    granted: tuple[int, int]
    front_end: FrontEndReport | None  # None: no data
    coordinator: CoordinatorReport | None
